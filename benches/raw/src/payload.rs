//! What is sent.

use serde::{Deserialize, Serialize};

/// Opaque text of so many bytes, without anything that JSON would escape.
pub fn text(bytes: usize) -> String {
    (b'a'..=b'z').cycle().take(bytes).map(char::from).collect()
}

/// An element of structured arguments, about 100 bytes as JSON.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Item {
    /// A short text that is not like the others'.
    pub sku: String,
    /// A longer text.
    pub description: String,
    /// A number with a fraction.
    pub price: f64,
    /// A whole number.
    pub quantity: u32,
}

/// As many items as make about so many bytes of JSON, at least one.
pub fn items(bytes: usize) -> Vec<Item> {
    const BYTES_OF_ITEM: usize = 100;
    (0..(bytes / BYTES_OF_ITEM).max(1) as u32).map(item).collect()
}

fn item(n: u32) -> Item {
    Item {
        sku: format!("item-{}", 1000 + n),
        description: text(32),
        price: f64::from(n) + 10.25,
        quantity: n % 10,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_take_about_the_bytes_asked_for() {
        for bytes in [100, 10_000] {
            let json = serde_json::to_string(&items(bytes)).unwrap_or_default();
            let ratio = json.len() as f64 / bytes as f64;
            assert!((0.9..1.1).contains(&ratio), "{} bytes for {bytes}", json.len());
        }
        assert_eq!(text(30), "abcdefghijklmnopqrstuvwxyzabcd");
    }
}
