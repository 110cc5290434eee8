//! Sensitive values, and redacting them.

use std::{borrow::Cow, fmt};

use lightbus_core::Arguments;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::{Map, Value};

/// The replacement for a sensitive value.
pub const REDACTED: &str = "<redacted>";
/// The keyword with which a schema marks a value as sensitive.
const KEYWORD: &str = "x-sensitive";

/// A value that is sent as it is but never shown: a password, a token, a name that must not be logged.
///
/// On the wire it is a plain `T`, as Python sees it. Its schema is that of `T` with `x-sensitive: true`.
/// Lightbus omits it from everything it shows: `Debug` and `Display`, errors about invalid arguments,
/// the events of the metrics plugin, and the output of [`redact`]. The broker stores it, and dead
/// letters keep it, so that they can be handled later.
///
/// ```
/// use lightbus::Sensitive;
///
/// let password = Sensitive::new("secret".to_owned());
/// assert_eq!(format!("{password:?} {password}"), "<redacted> <redacted>");
/// assert_eq!(password.expose(), "secret");
/// assert_eq!(serde_json::to_string(&password).unwrap(), "\"secret\"");
/// ```
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sensitive<T>(T);

impl<T> Sensitive<T> {
    /// Wraps a value.
    pub const fn new(value: T) -> Self {
        Self(value)
    }

    /// Returns the value. The caller is responsible for where it goes.
    pub const fn expose(&self) -> &T {
        &self.0
    }

    /// Returns the value.
    pub fn into_inner(self) -> T {
        self.0
    }
}

impl<T> From<T> for Sensitive<T> {
    fn from(value: T) -> Self {
        Self(value)
    }
}

impl<T> fmt::Debug for Sensitive<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

impl<T> fmt::Display for Sensitive<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

impl<T: Serialize> Serialize for Sensitive<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Sensitive<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // serde's own message would contain the value.
        T::deserialize(deserializer)
            .map(Self)
            .map_err(|_| de::Error::custom("a sensitive value is not of the expected type"))
    }
}

impl<T: JsonSchema> JsonSchema for Sensitive<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("Sensitive_{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let mut schema = T::json_schema(generator);
        schema.insert(KEYWORD.to_owned(), true.into());
        schema
    }
}

/// Returns whether a schema marks any value as sensitive.
pub(crate) fn is_in(schema: &Value) -> bool {
    match schema {
        Value::Object(object) => {
            object.get(KEYWORD) == Some(&Value::Bool(true)) || object.values().any(is_in)
        }
        Value::Array(list) => list.iter().any(is_in),
        _ => false,
    }
}

/// Returns the arguments of a message as JSON that may be shown: values that `schema` marks as sensitive
/// are replaced by [`REDACTED`], and so are values that are not JSON. `schema` is the schema of the
/// arguments from an API's document, such as `document["events"]["user_registered"]["parameters"]`.
///
/// ```
/// use serde_json::json;
///
/// let schema = json!({ "properties": { "password": { "type": "string", "x-sensitive": true } } });
/// let fields = lightbus::args! { username: "admin", password: "secret" }.into_fields().unwrap();
/// let shown = lightbus::sensitive::redact(&schema, &fields);
/// assert_eq!(shown, json!({ "username": "admin", "password": "<redacted>" }));
/// ```
#[must_use]
pub fn redact(schema: &Value, fields: &Arguments) -> Value {
    let mut shown = Value::Object(
        fields
            .iter()
            .map(|(name, value)| {
                let value = serde_json::from_slice(value).unwrap_or_else(|_| REDACTED.into());
                (name.to_string(), value)
            })
            .collect(),
    );
    redact_value(schema, &mut shown);
    shown
}

/// Replaces values that a schema marks as sensitive by [`REDACTED`], at any depth.
///
/// When in doubt, it redacts: values described by an unresolvable reference; values described by
/// keywords that are not evaluated (`patternProperties`, `if`, …) if they contain a sensitive schema;
/// and the whole value if following the schema's references takes too long.
pub fn redact_value(schema: &Value, value: &mut Value) {
    let mut redaction = Redaction { root: schema, steps: STEPS, depth: 0 };
    redaction.apply(schema, value);
    if redaction.steps == 0 {
        *value = REDACTED.into();
    }
}

/// The most subschemas to visit for one value. Schemas come from the bus, and may refer to themselves.
const STEPS: u32 = 100_000;
/// The greatest depth, counting references. JSON itself is at most 128 levels deep.
const DEPTH: u32 = 512;
/// Keywords that may describe parts of a value and are not evaluated.
const OPAQUE: [&str; 9] = [
    "patternProperties",
    "additionalItems",
    "if",
    "then",
    "else",
    "not",
    "contains",
    "dependencies",
    "prefixItems",
];

struct Redaction<'a> {
    root: &'a Value,
    steps: u32,
    depth: u32,
}

impl Redaction<'_> {
    fn apply(&mut self, schema: &Value, value: &mut Value) {
        let Some(schema) = schema.as_object() else { return };
        if self.steps == 0 || value == REDACTED {
            return;
        }
        if self.depth == DEPTH {
            self.steps = 0;
            return;
        }
        self.steps -= 1;
        self.depth += 1;
        self.look(schema, value);
        self.depth -= 1;
    }

    fn look(&mut self, schema: &Map<String, Value>, value: &mut Value) {
        let hides = |keyword: &&str| schema.get(*keyword).is_some_and(is_in);
        if schema.get(KEYWORD) == Some(&Value::Bool(true)) || OPAQUE.iter().any(hides) {
            *value = REDACTED.into();
            return;
        }
        if let Some(Value::String(reference)) = schema.get("$ref") {
            let target = reference.strip_prefix('#').and_then(|path| self.root.pointer(path));
            match target {
                // A schema that refers to itself adds nothing.
                Some(target) if target.as_object() != Some(schema) => self.apply(target, value),
                Some(_) => {}
                None => *value = REDACTED.into(),
            }
        }
        for key in ["allOf", "anyOf", "oneOf"] {
            for one in schema.get(key).and_then(Value::as_array).into_iter().flatten() {
                self.apply(one, value);
            }
        }
        match value {
            Value::Object(members) => {
                let known = schema.get("properties").and_then(Value::as_object);
                for (name, member) in members {
                    let named = known.and_then(|known| known.get(name));
                    if let Some(schema) = named.or_else(|| schema.get("additionalProperties")) {
                        self.apply(schema, member);
                    }
                }
            }
            Value::Array(list) => match schema.get("items") {
                Some(Value::Array(each)) => {
                    for (schema, member) in each.iter().zip(list) {
                        self.apply(schema, member);
                    }
                }
                Some(all) => {
                    for member in list {
                        self.apply(all, member);
                    }
                }
                None => {}
            },
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn redacted(schema: &Value, mut value: Value) -> Value {
        redact_value(schema, &mut value);
        value
    }

    #[test]
    fn it_is_found_however_deep_and_wherever_references_lead() {
        let schema = json!({
            "definitions": {
                "secret": { "type": "string", "x-sensitive": true },
                "tree": {
                    "properties": {
                        "key": { "$ref": "#/definitions/secret" },
                        "children": { "items": { "$ref": "#/definitions/tree" } },
                    },
                },
            },
            "anyOf": [{ "type": "null" }, { "$ref": "#/definitions/tree" }],
        });
        let tree = json!({ "key": "k", "name": "n", "children": [{ "key": "k", "children": [] }] });
        let shown = json!({
            "key": REDACTED, "name": "n", "children": [{ "key": REDACTED, "children": [] }],
        });
        assert_eq!(redacted(&schema, tree), shown);
        let others =
            json!({ "additionalProperties": { "x-sensitive": true }, "properties": { "a": {} } });
        assert_eq!(redacted(&others, json!({ "a": 1, "b": 2 })), json!({ "a": 1, "b": REDACTED }));
    }

    #[test]
    fn in_doubt_it_hides() {
        for schema in [
            json!({ "$ref": "#/definitions/nowhere" }),
            json!({ "$ref": "https://elsewhere.example/schema" }),
            json!({ "patternProperties": { "^p": { "x-sensitive": true } } }),
        ] {
            assert_eq!(redacted(&schema, json!({ "password": "p" })), REDACTED, "{schema}");
        }
        let harmless = json!({ "patternProperties": { "^p": { "type": "string" } } });
        assert_eq!(redacted(&harmless, json!({ "p": "q" })), json!({ "p": "q" }));
    }

    #[test]
    fn a_schema_that_refers_to_itself_without_end_hides_all_and_ends() {
        let hostile = json!({ "anyOf": [{ "$ref": "#" }, { "$ref": "#" }] });
        assert_eq!(redacted(&hostile, json!({ "a": 1 })), REDACTED);
        let around = json!({ "definitions": { "a": { "$ref": "#/definitions/b" }, "b": { "$ref": "#/definitions/a" } }, "$ref": "#/definitions/a" });
        assert_eq!(redacted(&around, json!(1)), REDACTED);
    }
}
