//! The JSON Schema of the configuration, for editors and for looking up keys.

use lightbus_core::{Registry, TransportKind};
use schemars::generate::SchemaSettings;
use serde_json::{Value, json};

use super::Config;

/// Returns the JSON Schema (draft 7) of the configuration, with the options of the compiled-in
/// transports. Editors use it to complete and check a `lightbus.yaml`.
///
/// ```
/// let schema = lightbus::config::json_schema();
/// assert_eq!(schema["properties"]["bus"]["properties"]["schema"]["properties"]["ttl"]["default"], 60);
/// ```
///
/// `x-rust-only` marks keys that Python's Lightbus does not know, `x-without-effect` says why a key is
/// accepted and ignored, and `writeOnly` marks secrets.
#[must_use]
pub fn json_schema() -> Value {
    json_schema_for(&crate::registry())
}

/// Returns the JSON Schema with the options of the transports of a registry. See [`json_schema`].
#[must_use]
pub fn json_schema_for(registry: &Registry) -> Value {
    let settings = SchemaSettings::draft07().with(|settings| settings.inline_subschemas = true);
    let mut schema = settings.into_generator().into_root_schema_for::<Config>().to_value();
    let api = "/properties/apis/additionalProperties/properties";
    for (pointer, kind) in [
        (format!("{api}/rpc_transport"), TransportKind::Rpc),
        (format!("{api}/result_transport"), TransportKind::Result),
        (format!("{api}/event_transport"), TransportKind::Event),
        (
            "/properties/bus/properties/schema/properties/transport".to_owned(),
            TransportKind::Schema,
        ),
    ] {
        if let Some(Value::Object(place)) = schema.pointer_mut(&pointer) {
            place.insert("properties".to_owned(), transports(registry, kind));
            place.insert("additionalProperties".to_owned(), false.into());
            place.insert("minProperties".to_owned(), 1.into());
            place.insert("maxProperties".to_owned(), 1.into());
        }
    }
    schema
}

fn transports(registry: &Registry, kind: TransportKind) -> Value {
    let options = registry.names().filter_map(|name| {
        let factory = registry.get(name).ok()?;
        let mut options = factory.options(kind).unwrap_or_else(|| json!({}));
        if let Some(options) = options.as_object_mut() {
            options.remove("$schema");
            options.remove("title");
            // `redis:` with nothing below it has all defaults.
            if options.get("type") == Some(&json!("object")) {
                options.insert("type".to_owned(), json!(["object", "null"]));
            }
        }
        Some((name.to_owned(), options))
    });
    Value::Object(options.collect())
}

/// Returns the schema of a key, or `None` if it is unknown.
pub(super) fn child<'s>(schema: &'s Value, key: &str) -> Option<&'s Value> {
    alternatives(schema).into_iter().find_map(|schema| {
        if let Some(known) = schema.get("properties").and_then(|all| all.get(key)) {
            return Some(known);
        }
        schema.get("additionalProperties").filter(|others| others.is_object())
    })
}

/// Returns the schema of a path.
pub(super) fn at<K: AsRef<str>>(
    schema: &Value,
    path: impl IntoIterator<Item = K>,
) -> Option<&Value> {
    path.into_iter().try_fold(schema, |schema, key| child(schema, key.as_ref()))
}

/// Returns the keys that a schema knows by name.
pub(super) fn properties(schema: &Value) -> impl Iterator<Item = (&String, &Value)> {
    alternatives(schema)
        .into_iter()
        .filter_map(|schema| schema.get("properties").and_then(Value::as_object))
        .flatten()
}

/// Whether a schema allows any key.
pub(super) fn is_open(schema: &Value) -> bool {
    let open = |schema: &Value| {
        schema.get("properties").is_none()
            && schema.get("type").is_none()
            && schema.get("anyOf").is_none()
    };
    alternatives(schema).into_iter().any(open)
}

/// Whether a schema allows values of this type.
pub(super) fn allows(schema: &Value, kind: &str) -> bool {
    alternatives(schema).into_iter().any(|schema| match schema.get("type") {
        Some(Value::String(one)) => one == kind,
        Some(Value::Array(several)) => several.iter().any(|one| one == kind),
        _ => schema
            .get("enum")
            .and_then(Value::as_array)
            .is_some_and(|values| kind == "string" && values.iter().any(Value::is_string)),
    })
}

/// Returns a keyword of a schema, or of one of its alternatives.
pub(super) fn keyword<'s>(schema: &'s Value, name: &str) -> Option<&'s Value> {
    alternatives(schema).into_iter().find_map(|schema| schema.get(name))
}

fn alternatives(schema: &Value) -> Vec<&Value> {
    let mut all = vec![schema];
    for key in ["anyOf", "oneOf", "allOf"] {
        for list in schema.get(key).and_then(Value::as_array).into_iter().flatten() {
            all.extend(alternatives(list));
        }
    }
    all
}

/// Returns the paths at which a schema allows a key of this name.
pub(super) fn places_of(schema: &Value, key: &str) -> Vec<String> {
    fn search(schema: &Value, key: &str, path: &str, found: &mut Vec<String>) {
        for (name, below) in properties(schema) {
            let place = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            if name == key {
                found.push(place.clone());
            }
            search(below, key, &place, found);
        }
        for open in alternatives(schema) {
            if let Some(below) = open.get("additionalProperties").filter(|below| below.is_object())
            {
                search(below, key, &format!("{path}.default"), found);
            }
        }
    }
    let mut found = Vec::new();
    search(schema, key, "", &mut found);
    found
}
