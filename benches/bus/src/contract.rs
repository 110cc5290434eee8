//! The API that is measured, as a user would write it.

use lightbus_bench_raw::payload;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Gives back what it gets.
#[lightbus::api(name = "bench", events(Changed, Stamped))]
pub(crate) trait Bench {
    /// One text.
    async fn echo(&self, payload: String) -> String;

    /// Structured arguments.
    async fn items(&self, items: Vec<Item>) -> Vec<Item>;
}

/// Something has changed.
#[derive(Clone, Debug, lightbus::Event)]
pub(crate) struct Changed {
    /// Text of as many bytes as were asked for.
    pub payload: String,
}

/// An event that knows when it was fired.
#[derive(Clone, Debug, lightbus::Event)]
pub(crate) struct Stamped {
    /// Nanoseconds since 1970, by the clock of the machine.
    pub fired_at: u64,
    /// As in [`Changed`].
    pub payload: String,
}

/// The raw measurements' [`payload::Item`], with a schema.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub(crate) struct Item {
    /// As there.
    pub sku: String,
    /// As there.
    pub description: String,
    /// As there.
    pub price: f64,
    /// As there.
    pub quantity: u32,
}

/// As many items as make about so many bytes of JSON.
pub(crate) fn items(bytes: usize) -> Vec<Item> {
    let items = payload::items(bytes).into_iter();
    items
        .map(|payload::Item { sku, description, price, quantity }| Item {
            sku,
            description,
            price,
            quantity,
        })
        .collect()
}

/// The implementation.
pub(crate) struct Echo;

impl Bench for Echo {
    async fn echo(&self, payload: String) -> String {
        payload
    }

    async fn items(&self, items: Vec<Item>) -> Vec<Item> {
        items
    }
}
