//! A JSON Schema as a list of alternatives, each of one type.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

/// The greatest depth of types. Schemas come from the bus, and must not overflow the stack.
pub(super) const DEEPEST: usize = 64;

/// One alternative of a schema: values of one type.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Shape {
    pub(super) kind: Kind,
    /// The only values, if they are listed.
    pub(super) values: Option<Vec<Value>>,
    pub(super) schema: Map<String, Value>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Null,
    Truth,
    Number,
    Integer,
    Text,
    List,
    Object,
    /// Any type.
    Any,
}

impl Kind {
    fn of_name(name: &str) -> Self {
        match name {
            "null" => Self::Null,
            "boolean" => Self::Truth,
            "number" => Self::Number,
            "integer" => Self::Integer,
            "string" => Self::Text,
            "array" => Self::List,
            "object" => Self::Object,
            _ => Self::Any,
        }
    }

    fn of_value(value: &Value) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Bool(_) => Self::Truth,
            Value::Number(number) if number.is_f64() => Self::Number,
            Value::Number(_) => Self::Integer,
            Value::String(_) => Self::Text,
            Value::Array(_) => Self::List,
            Value::Object(_) => Self::Object,
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Truth => "true or false",
            Self::Number => "a number",
            Self::Integer => "a whole number",
            Self::Text => "a text",
            Self::List => "a list",
            Self::Object => "an object",
            Self::Any => "anything",
        }
    }
}

/// Keywords that do not restrict the allowed values. `format` is among them, because it is not checked.
fn is_annotation(key: &str) -> bool {
    const ANNOTATIONS: [&str; 14] = [
        "$schema",
        "$id",
        "$comment",
        "title",
        "description",
        "default",
        "examples",
        "format",
        "definitions",
        "$defs",
        "readOnly",
        "writeOnly",
        "deprecated",
        "contentEncoding",
    ];
    ANNOTATIONS.contains(&key) || key.starts_with("x-")
}

fn reference(schema: &Value) -> Option<String> {
    schema.get("$ref").and_then(Value::as_str).map(str::to_owned)
}

fn has_reference(schema: &Value) -> bool {
    match schema {
        Value::Object(object) => object.contains_key("$ref") || object.values().any(has_reference),
        Value::Array(list) => list.iter().any(has_reference),
        _ => false,
    }
}

/// Returns the alternatives of a schema. References that were followed before add none.
pub(super) fn shapes(schema: &Value, root: &Value, followed: &mut BTreeSet<String>) -> Vec<Shape> {
    let any = |schema| Shape { kind: Kind::Any, values: None, schema };
    let object = match schema {
        Value::Bool(false) => return Vec::new(),
        Value::Object(object) => object,
        _ => return vec![any(Map::new())],
    };
    if let Some(target) = reference(schema) {
        if followed.len() == DEEPEST {
            return vec![any(object.clone())];
        }
        if !followed.insert(target.clone()) {
            return Vec::new();
        }
        return match target.strip_prefix('#').and_then(|pointer| root.pointer(pointer)) {
            Some(target) => shapes(target, root, followed),
            None => vec![any(object.clone())],
        };
    }
    let rest: Map<String, Value> = object
        .iter()
        .filter(|(key, _)| !is_annotation(key))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    for key in ["anyOf", "oneOf", "allOf"] {
        if let (Some(Value::Array(list)), true) = (rest.get(key), rest.len() == 1)
            && (key != "allOf" || list.len() == 1)
        {
            return list.iter().flat_map(|each| shapes(each, root, followed)).collect();
        }
    }
    let mut rest = rest;
    let values = match (rest.remove("const"), rest.remove("enum")) {
        (Some(only), _) => Some(vec![only]),
        (None, Some(Value::Array(list))) => Some(list),
        _ => None,
    };
    let kinds: Vec<Kind> = match rest.remove("type") {
        Some(Value::String(one)) => vec![Kind::of_name(&one)],
        Some(Value::Array(several)) => {
            several.iter().filter_map(Value::as_str).map(Kind::of_name).collect()
        }
        _ => match &values {
            Some(values) => {
                let mut kinds: Vec<Kind> = Vec::new();
                for kind in values.iter().map(Kind::of_value) {
                    if !kinds.contains(&kind) {
                        kinds.push(kind);
                    }
                }
                kinds
            }
            None => vec![Kind::Any],
        },
    };
    let shape = |kind: &Kind| {
        let of_kind = |value: &&Value| {
            let is = Kind::of_value(value);
            is == *kind || (is == Kind::Integer && *kind == Kind::Number)
        };
        let values: Option<Vec<Value>> =
            values.as_ref().map(|values| values.iter().filter(of_kind).cloned().collect());
        // Bounds of texts do not apply to numbers.
        let schema = rest.iter().filter(|(key, _)| concerns(key, *kind));
        let schema = schema.map(|(key, value)| (key.clone(), value.clone())).collect();
        Shape { kind: *kind, values, schema }
    };
    kinds
        .iter()
        .map(shape)
        // Of a list of values, a type without any.
        .filter(|shape| shape.values.as_ref().is_none_or(|values| !values.is_empty()))
        .collect()
}

/// Whether a keyword applies to values of this type.
fn concerns(key: &str, kind: Kind) -> bool {
    let about = match key {
        "minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum" | "multipleOf" => {
            [Kind::Number, Kind::Integer]
        }
        "minLength" | "maxLength" | "pattern" => [Kind::Text; 2],
        "items" | "minItems" | "maxItems" | "uniqueItems" | "additionalItems" | "contains" => {
            [Kind::List; 2]
        }
        "properties"
        | "required"
        | "additionalProperties"
        | "minProperties"
        | "maxProperties"
        | "patternProperties"
        | "propertyNames"
        | "dependencies" => [Kind::Object; 2],
        _ => return true,
    };
    kind == Kind::Any || about.contains(&kind)
}

impl Shape {
    pub(super) fn has_reference(&self) -> bool {
        self.schema.values().any(has_reference)
    }

    /// Returns what distinguishes an object from its alternatives: variants of an enumeration have one
    /// key, or a tag with one value.
    fn label(&self) -> Option<String> {
        if self.kind != Kind::Object {
            return None;
        }
        let properties = self.schema.get("properties")?.as_object()?;
        let tag = properties.iter().find_map(|(key, value)| {
            let only = match (value.get("const"), value.get("enum").and_then(Value::as_array)) {
                (Some(only), _) => only,
                (None, Some(list)) if list.len() == 1 => &list[0],
                _ => return None,
            };
            Some(format!("{key}: {}", plain(only)))
        });
        let single = || {
            let required = self.schema.get("required")?.as_array()?;
            (properties.len() == 1 && required.len() == 1)
                .then(|| required[0].as_str().map(str::to_owned))
                .flatten()
        };
        tag.or_else(single)
    }

    pub(super) fn words(&self) -> String {
        match (self.label(), &self.values) {
            (Some(label), _) => format!("`{label}`"),
            (None, Some(values)) if self.kind != Kind::Null => {
                let values: Vec<_> =
                    values.iter().map(|value| format!("`{}`", plain(value))).collect();
                values.join(" or ")
            }
            _ => self.kind.words().to_owned(),
        }
    }
}

pub(super) fn same_label(a: &Shape, b: &Shape) -> bool {
    a.kind == b.kind && a.label().is_some() && a.label() == b.label()
}

pub(super) fn same_kind(a: &Shape, b: &Shape) -> bool {
    // Variants with different names are different, not changed.
    a.kind == b.kind && (a.label().is_none() || b.label().is_none())
}

pub(super) fn both_numbers(a: &Shape, b: &Shape) -> bool {
    let is_number = |shape: &Shape| matches!(shape.kind, Kind::Number | Kind::Integer);
    is_number(a) && is_number(b)
}

pub(super) fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
