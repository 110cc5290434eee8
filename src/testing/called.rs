//! Recorded calls.

use lightbus_core::{Arguments, Name, Result, RpcMessage, codec};
use serde::de::DeserializeOwned;

/// A call that was made during a test.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Called {
    /// The API, by its full dotted name.
    pub api: Name,
    /// The procedure.
    pub procedure: Name,
    /// The arguments, each encoded.
    pub fields: Arguments,
    /// Whether a mock answered the call, or was about to.
    pub mocked: bool,
}

impl Called {
    pub(super) fn new(call: &RpcMessage, mocked: bool) -> Self {
        Self {
            api: Name::clone(&call.api),
            procedure: Name::clone(&call.procedure),
            fields: call.fields.clone(),
            mocked,
        }
    }

    /// Returns the full name of the procedure: API, dot, procedure.
    #[must_use]
    pub fn path(&self) -> String {
        format!("{}.{}", self.api, self.procedure)
    }

    /// Decodes an argument. A missing argument counts as `null`, so it can be read as an `Option`.
    ///
    /// # Errors
    ///
    /// [`Invalid`](lightbus_core::ErrorKind::Invalid), naming the argument, if it is missing or has
    /// another type.
    pub fn arg<T: DeserializeOwned>(&self, name: &str) -> Result<T> {
        codec::decode_field(&self.fields, name)
    }
}

/// Formats arguments as in source code: `username: "admin", tries: 3`.
pub(super) fn shown(fields: &Arguments) -> String {
    const LONGEST: usize = 200;
    let mut text = String::new();
    for (name, value) in fields.iter() {
        if !text.is_empty() {
            text.push_str(", ");
        }
        text.push_str(name);
        text.push_str(": ");
        text.push_str(&String::from_utf8_lossy(value));
    }
    if text.chars().count() > LONGEST {
        text = text.chars().take(LONGEST).collect();
        text.push('…');
    }
    text
}

/// Returns whether two messages carry equal values, whatever their order and JSON formatting.
pub(super) fn same(one: &Arguments, other: &Arguments) -> bool {
    let values = |fields: &Arguments| -> Option<serde_json::Map<String, serde_json::Value>> {
        let decoded = fields.iter().map(|(name, value)| {
            Ok::<_, serde_json::Error>((name.to_string(), serde_json::from_slice(value)?))
        });
        decoded.collect::<Result<_, _>>().ok()
    };
    one == other || values(one).is_some_and(|one| Some(one) == values(other))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(text: &[(&str, &str)]) -> Arguments {
        text.iter().map(|(name, value)| (Name::from(*name), value.to_string().into())).collect()
    }

    #[test]
    fn the_same_values_are_the_same_in_any_order_and_writing() {
        let one = fields(&[("a", "1"), ("b", r#"{"x":1,"y":2}"#)]);
        assert!(same(&one, &fields(&[("b", r#"{ "y": 2, "x": 1 }"#), ("a", "1")])));
        assert!(!same(&one, &fields(&[("a", "1")])));
        assert!(!same(&one, &fields(&[("a", "2"), ("b", r#"{"x":1,"y":2}"#)])));
    }

    #[test]
    fn long_arguments_are_cut_when_shown() {
        let long = format!("\"{}\"", "é".repeat(1000));
        let text = shown(&fields(&[("a", &long)]));
        assert!(text.ends_with('…') && text.chars().count() < 210, "{text}");
    }
}
