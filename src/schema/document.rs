//! From a contract to the document that describes it on the bus.

use lightbus_core::codec;
use schemars::{SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value, json, value::RawValue};

use crate::{
    Result,
    contract::{Contract, Parameter},
};

const DRAFT: &str = "http://json-schema.org/draft-07/schema#";

/// The document that describes an API on the bus, in the form of Python's Lightbus: draft 7, types
/// written out where they are used.
#[must_use]
pub fn document(contract: &Contract) -> Value {
    let api = contract.name;
    let mut rpcs = Map::new();
    for procedure in contract.procedures {
        let name = procedure.name;
        let parameters = parameters(
            procedure.parameters,
            &format!("RPC {api}.{name}() parameters"),
            procedure.description,
        );
        let response = titled(procedure.response, &format!("RPC {api}.{name}() response"));
        rpcs.insert(name.to_owned(), json!({ "parameters": parameters, "response": response }));
    }
    let mut events = Map::new();
    for event in contract.events {
        let name = event.name;
        let title = format!("Event {api}.{name} parameters");
        let parameters = parameters(event.parameters, &title, event.description);
        events.insert(name.to_owned(), json!({ "parameters": parameters }));
    }
    json!({ "rpcs": rpcs, "events": events, "x-version": contract.version })
}

/// The same as text, ready to be stored.
///
/// # Errors
///
/// None that a contract written by the macros can cause.
pub fn document_text(contract: &Contract) -> Result<Box<RawValue>> {
    codec::decode(&codec::encode(&document(contract))?)
}

fn parameters(list: &[Parameter], title: &str, description: &str) -> Value {
    let mut generator = generator();
    let mut properties = Map::new();
    let mut required = Vec::new();
    for parameter in list {
        let mut schema = strip((parameter.schema)(&mut generator).to_value());
        if let Some(object) = schema.as_object_mut() {
            if !parameter.description.is_empty() {
                object.insert("description".to_owned(), parameter.description.into());
            }
            if let Some(default) = parameter.default {
                object.insert("default".to_owned(), default());
            } else if !parameter.required {
                object.insert("default".to_owned(), Value::Null);
            }
        }
        properties.insert(parameter.name.to_owned(), schema);
        if parameter.required {
            required.push(parameter.name);
        }
    }
    let mut whole = json!({
        "$schema": DRAFT,
        "type": "object",
        "title": title,
        "properties": properties,
        "additionalProperties": false,
    });
    if !required.is_empty() {
        whole["required"] = json!(required);
    }
    if !description.is_empty() {
        whole["description"] = description.into();
    }
    with_definitions(whole, &mut generator)
}

fn titled(schema: fn(&mut SchemaGenerator) -> schemars::Schema, title: &str) -> Value {
    let mut generator = generator();
    let mut whole = strip(schema(&mut generator).to_value());
    if whole.is_boolean() {
        whole = json!({});
    }
    whole["$schema"] = DRAFT.into();
    whole["title"] = title.into();
    with_definitions(whole, &mut generator)
}

fn generator() -> SchemaGenerator {
    // Python's documents have no references, and its readers need none to be found.
    SchemaSettings::draft07().with(|settings| settings.inline_subschemas = true).into_generator()
}

/// A type that contains itself cannot be written out: it is defined once and referred to.
fn with_definitions(mut whole: Value, generator: &mut SchemaGenerator) -> Value {
    let definitions = generator.take_definitions(true);
    if !definitions.is_empty() {
        whole["definitions"] = Value::Object(definitions);
    }
    whole
}

/// Any value is `{}` in Python's documents, where schemars writes `true`.
fn strip(schema: Value) -> Value {
    match schema {
        Value::Bool(true) => json!({}),
        other => other,
    }
}
