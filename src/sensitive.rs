//! Values that must not be seen.

use std::{borrow::Cow, fmt};

use lightbus_core::Fields;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::Value;

/// What is shown in the place of a sensitive value.
pub const REDACTED: &str = "<redacted>";
/// The keyword by which a schema says that a value is sensitive.
const KEYWORD: &str = "x-sensitive";

/// A value that travels as what it is, and is never shown: a password, a token, a name where names
/// must not be in logs.
///
/// On the wire it is a plain `T`, as Python sees it, and its schema is that of `T` with
/// `x-sensitive: true`. Everything that lightbus shows leaves it out: its own `Debug` and `Display`,
/// errors about arguments that do not fit, the events of the metrics plugin, and what
/// [`redact`] makes of a message. The broker does have it, and dead letters keep it, so that they can
/// be handled again.
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
    /// Hides this value.
    pub const fn new(value: T) -> Self {
        Self(value)
    }

    /// The value itself: whoever calls this answers for where it goes.
    pub const fn expose(&self) -> &T {
        &self.0
    }

    /// The value itself.
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
        // What serde says of a value of another type has the value in it.
        T::deserialize(deserializer).map(Self).map_err(|_| {
            de::Error::custom("a sensitive value is not of the type that was expected")
        })
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

/// Whether a schema says of any value that it is sensitive.
pub(crate) fn is_in(schema: &Value) -> bool {
    match schema {
        Value::Object(object) => {
            object.get(KEYWORD) == Some(&Value::Bool(true)) || object.values().any(is_in)
        }
        Value::Array(list) => list.iter().any(is_in),
        _ => false,
    }
}

/// The arguments of a message as JSON, with [`REDACTED`] in the place of what `schema` says is
/// sensitive: for showing them. `schema` is that of the arguments, as it stands in the document of an
/// API: `document["events"]["user_registered"]["parameters"]`.
///
/// What is not JSON is shown as redacted, too.
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
pub fn redact(schema: &Value, fields: &Fields) -> Value {
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

/// Puts [`REDACTED`] in the place of what a schema says is sensitive, however deep.
pub fn redact_value(schema: &Value, value: &mut Value) {
    Redaction { root: schema }.apply(schema, value, 0);
}

struct Redaction<'a> {
    root: &'a Value,
}

impl Redaction<'_> {
    fn apply(&self, schema: &Value, value: &mut Value, depth: usize) {
        let Some(schema) = schema.as_object() else { return };
        // Deeper than JSON may be: a schema that refers to itself without end.
        if depth > 256 {
            *value = REDACTED.into();
            return;
        }
        if schema.get(KEYWORD) == Some(&Value::Bool(true)) {
            *value = REDACTED.into();
            return;
        }
        if let Some(Value::String(reference)) = schema.get("$ref")
            && let Some(path) = reference.strip_prefix('#')
            && let Some(target) = self.root.pointer(path)
        {
            self.apply(target, value, depth + 1);
        }
        for key in ["allOf", "anyOf", "oneOf"] {
            for one in schema.get(key).and_then(Value::as_array).into_iter().flatten() {
                self.apply(one, value, depth + 1);
            }
        }
        match value {
            Value::Object(members) => {
                let known = schema.get("properties").and_then(Value::as_object);
                for (name, member) in members {
                    match known.and_then(|known| known.get(name)) {
                        Some(known) => self.apply(known, member, depth + 1),
                        None => {
                            if let Some(other) = schema.get("additionalProperties") {
                                self.apply(other, member, depth + 1);
                            }
                        }
                    }
                }
            }
            Value::Array(list) => match schema.get("items") {
                Some(Value::Array(each)) => {
                    for (schema, member) in each.iter().zip(list) {
                        self.apply(schema, member, depth + 1);
                    }
                }
                Some(all) => {
                    for member in list {
                        self.apply(all, member, depth + 1);
                    }
                }
                None => {}
            },
            _ => {}
        }
    }
}
