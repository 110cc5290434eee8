//! Typing texts that come from outside.

use serde_json::Value;

use super::schema;

/// Converts a text to the type that the schema wants: to a number where a number is allowed, to a text
/// where a text is allowed. `structured` allows mappings and lists.
pub(crate) fn typed(text: &str, schema: Option<&Value>, structured: bool) -> Value {
    let as_text = || Value::String(text.to_owned());
    let wants = |kind| schema.is_some_and(|schema| schema::allows(schema, kind));
    if wants("string") {
        return as_text();
    }
    match parsed(text) {
        Some(value @ (Value::Object(_) | Value::Array(_))) if structured => value,
        Some(value @ (Value::Bool(_) | Value::Number(_) | Value::Null)) => value,
        _ => as_text(),
    }
}

/// Parses a text as YAML, or as JSON in a program without YAML.
fn parsed(text: &str) -> Option<Value> {
    #[cfg(feature = "yaml")]
    return serde_saphyr::from_str(text).ok();
    #[cfg(not(feature = "yaml"))]
    serde_json::from_str(text).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_lone_placeholder_has_the_type_that_is_wanted() {
        let number = json!({"type": "number"});
        let text = json!({"type": ["string", "null"]});
        assert_eq!(typed("5", Some(&number), false), json!(5));
        assert_eq!(typed("5", Some(&text), false), json!("5"));
        assert_eq!(typed("5", None, false), json!(5));
        assert_eq!(typed("a: b", None, false), json!("a: b"));
        assert_eq!(typed(r#"{"a": "b"}"#, None, true), json!({"a": "b"}));
        #[cfg(feature = "yaml")]
        assert_eq!(typed("{a: b}", None, true), json!({"a": "b"}));
    }
}
