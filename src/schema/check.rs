//! Validating encoded values against a schema.
//!
//! Most arguments are texts, numbers and booleans. Those are validated on their bytes, without parsing
//! them into a tree. Everything else is validated by the `jsonschema` crate, whose validators are
//! compiled once.

use std::sync::OnceLock;

use bytes::Bytes;
use lightbus_core::{Arguments, Error, ErrorKind, Result, codec};
use serde_json::{Map, Value, json};

use crate::sensitive;

/// The checks of one procedure or event, compiled when they are first needed.
#[derive(Debug, Default)]
pub(super) struct Checks {
    parameters: OnceLock<Result<Parameters>>,
    response: OnceLock<Result<Check>>,
}

impl Checks {
    pub(super) fn parameters(&self, schema: &Value, arguments: &Arguments) -> Result<()> {
        let compiled = self.parameters.get_or_init(|| Parameters::compile(schema));
        compiled.as_ref().map_err(Clone::clone)?.run(arguments)
    }

    pub(super) fn response(&self, schema: &Value, result: &Bytes) -> Result<()> {
        let compiled = self.response.get_or_init(|| Check::compile(schema, schema));
        compiled.as_ref().map_err(Clone::clone)?.run(result).map_err(|why| {
            Error::new(ErrorKind::Invalid, format!("the result does not match the schema: {why}"))
        })
    }
}

/// The check of all arguments of a call or an event.
#[derive(Debug)]
enum Parameters {
    /// An object with known properties: each argument is validated separately.
    Each { properties: Vec<(String, Check)>, required: Vec<String>, others: bool },
    /// Anything else: all arguments are validated together.
    Together(Check),
}

impl Parameters {
    fn compile(schema: &Value) -> Result<Self> {
        const UNDERSTOOD: [&str; 11] = [
            "$schema",
            "$id",
            "type",
            "title",
            "description",
            "properties",
            "required",
            "additionalProperties",
            "definitions",
            "$defs",
            "default",
        ];
        let plain = schema.as_object().filter(|object| {
            object.keys().all(|key| UNDERSTOOD.contains(&key.as_str()) || key.starts_with("x-"))
                && object.get("type").is_none_or(|kind| kind == "object")
                && object.get("additionalProperties").is_none_or(Value::is_boolean)
        });
        let Some(object) = plain else {
            return Ok(Self::Together(Check::compile(schema, schema)?));
        };
        let properties = object.get("properties").and_then(Value::as_object);
        let properties = properties
            .into_iter()
            .flatten()
            .map(|(name, property)| Ok((name.clone(), Check::compile(property, schema)?)))
            .collect::<Result<_>>()?;
        let required = object.get("required").and_then(Value::as_array);
        let required =
            required.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
        let others = object.get("additionalProperties") != Some(&Value::Bool(false));
        Ok(Self::Each { properties, required, others })
    }

    fn run(&self, arguments: &Arguments) -> Result<()> {
        let invalid = |message: String| Error::new(ErrorKind::Invalid, message);
        match self {
            Self::Each { properties, required, others } => {
                for (name, value) in arguments.iter() {
                    match properties.iter().find(|(property, _)| property == &**name) {
                        Some((_, check)) => check.run(value).map_err(|why| {
                            invalid(format!(
                                "the argument `{name}` does not match the schema: {why}"
                            ))
                        })?,
                        None if *others => {}
                        None => {
                            let names: Vec<_> =
                                properties.iter().map(|(name, _)| name.as_str()).collect();
                            let known =
                                if names.is_empty() { "none".to_owned() } else { names.join(", ") };
                            return Err(invalid(format!("there is no argument `{name}`"))
                                .with("arguments", known));
                        }
                    }
                }
                match required.iter().find(|name| arguments.get(name).is_none()) {
                    Some(missing) => Err(invalid(format!("the argument `{missing}` is missing"))),
                    None => Ok(()),
                }
            }
            Self::Together(check) => {
                let mut whole = Map::new();
                for (name, value) in arguments.iter() {
                    let value = serde_json::from_slice(value).map_err(|error| {
                        invalid(format!("the argument `{name}` is not JSON: {error}"))
                    })?;
                    whole.insert(name.to_string(), value);
                }
                check
                    .run_value(&Value::Object(whole))
                    .map_err(|why| invalid(format!("the arguments do not match the schema: {why}")))
            }
        }
    }
}

/// The check of one value.
#[derive(Debug)]
enum Check {
    Anything,
    Text,
    Truth,
    Null,
    Number(Range),
    Integer(Range),
    OneOf(Vec<Check>),
    Tree(Box<jsonschema::Validator>),
    /// Whether the value is sensitive, so that errors must not show it.
    Hidden(Box<Check>),
}

#[derive(Clone, Copy, Debug)]
struct Range {
    min: f64,
    max: f64,
}

impl Check {
    /// Compiles a check. `root` has the definitions that `schema` may refer to.
    fn compile(schema: &Value, root: &Value) -> Result<Self> {
        let check = Self::compile_open(schema, root)?;
        // References are only resolved within the document.
        let refers = schema.to_string().contains("\"$ref\"");
        let hidden = sensitive::is_in(if refers { root } else { schema });
        Ok(if hidden { Self::Hidden(Box::new(check)) } else { check })
    }

    fn compile_open(schema: &Value, root: &Value) -> Result<Self> {
        if let Some(simple) = Self::simple(schema) {
            return Ok(simple);
        }
        let mut whole = json!({ "allOf": [schema] });
        for key in ["$schema", "definitions", "$defs"] {
            if let Some(value) = root.get(key) {
                whole[key] = value.clone();
            }
        }
        // Draft 7 unless the document says otherwise, as Python's Lightbus publishes.
        let mut options = jsonschema::options();
        if root.get("$schema").is_none() {
            options = options.with_draft(jsonschema::Draft::Draft7);
        }
        let validator = options.build(&whole).map_err(|error| {
            Error::new(ErrorKind::Malformed, format!("the schema is invalid: {error}"))
        })?;
        Ok(Self::Tree(Box::new(validator)))
    }

    /// Returns the check on bytes, if it covers all keywords of the schema.
    fn simple(schema: &Value) -> Option<Self> {
        let object = match schema {
            Value::Bool(true) => return Some(Self::Anything),
            other => other.as_object()?,
        };
        let mut kinds = Vec::new();
        let (mut range, mut ranged, mut alternatives) =
            (Range { min: f64::MIN, max: f64::MAX }, false, false);
        for (key, value) in object {
            match key.as_str() {
                // `format` is not checked, as in Python.
                "title" | "description" | "default" | "format" | "$schema" | "definitions"
                | "$defs" | "examples" => {}
                "type" => match value {
                    Value::String(kind) => kinds.push(kind.as_str()),
                    Value::Array(list) => {
                        for kind in list {
                            kinds.push(kind.as_str()?);
                        }
                    }
                    _ => return None,
                },
                "anyOf" => alternatives = true,
                "minimum" => (range.min, ranged) = (value.as_f64()?, true),
                "maximum" => (range.max, ranged) = (value.as_f64()?, true),
                _ if key.starts_with("x-") => {}
                _ => return None,
            }
        }
        if alternatives {
            let list = object.get("anyOf")?.as_array()?;
            let checks = list.iter().map(Self::simple).collect::<Option<Vec<_>>>()?;
            return (kinds.is_empty() && !ranged).then_some(Self::OneOf(checks));
        }
        let mut checks = Vec::new();
        for kind in &kinds {
            checks.push(match *kind {
                "string" => Self::Text,
                "boolean" => Self::Truth,
                "null" => Self::Null,
                "number" => Self::Number(range),
                "integer" => Self::Integer(range),
                _ => return None,
            });
        }
        match checks.len() {
            0 if ranged => None,
            0 => Some(Self::Anything),
            1 => checks.pop(),
            _ => Some(Self::OneOf(checks)),
        }
    }

    /// Returns why encoded JSON does not match, as an error.
    fn run(&self, json: &[u8]) -> Result<(), String> {
        let found = || format!("found {}", excerpt(json));
        let expect = |holds: bool, what: &str| {
            if holds { Ok(()) } else { Err(format!("expected {what}, {}", found())) }
        };
        let json = json.trim_ascii();
        match self {
            Self::Anything => Ok(()),
            Self::Text => expect(json.first() == Some(&b'"'), "a text"),
            Self::Truth => expect(json == b"true" || json == b"false", "true or false"),
            Self::Null => expect(json == b"null", "null"),
            Self::Number(range) => {
                expect(number(json).is_some_and(|n| range.holds(n)), &range.text("a number"))
            }
            Self::Integer(range) => {
                let whole = number(json).is_some_and(|n| n.fract() == 0.0 && range.holds(n));
                expect(whole, &range.text("an integer"))
            }
            Self::OneOf(checks) => {
                let mut reasons = Vec::new();
                for check in checks {
                    match check.run(json) {
                        Ok(()) => return Ok(()),
                        Err(reason) => reasons.push(reason),
                    }
                }
                Err(reasons.join(", or "))
            }
            Self::Tree(_) => {
                let value = serde_json::from_slice(json).map_err(|error| not_read(&error))?;
                self.run_value(&value)
            }
            Self::Hidden(check) => match &**check {
                Self::Tree(_) => {
                    let value = serde_json::from_slice(json).map_err(|error| not_read(&error))?;
                    self.run_value(&value)
                }
                simple => simple.run(json).map_err(|_| {
                    "it is not of the type that is expected, and, being sensitive, not shown"
                        .to_owned()
                }),
            },
        }
    }

    fn run_value(&self, value: &Value) -> Result<(), String> {
        match self {
            Self::Tree(validator) => validator.validate(value).map_err(|error| {
                let place = error.instance_path().to_string();
                if place.is_empty() { error.to_string() } else { format!("{error} (at {place})") }
            }),
            Self::Hidden(check) => match &**check {
                Self::Tree(validator) => validator.validate(value).map_err(|error| {
                    let place = error.instance_path().to_string();
                    let error = error.masked();
                    if place.is_empty() {
                        error.to_string()
                    } else {
                        format!("{error} (at {place})")
                    }
                }),
                _ => self.run(value.to_string().as_bytes()),
            },
            simple => simple.run(value.to_string().as_bytes()),
        }
    }
}

impl Range {
    fn holds(self, number: f64) -> bool {
        number >= self.min && number <= self.max
    }

    fn text(self, kind: &str) -> String {
        match (self.min > f64::MIN, self.max < f64::MAX) {
            (false, false) => kind.to_owned(),
            (true, false) => format!("{kind} of at least {}", self.min),
            (false, true) => format!("{kind} of at most {}", self.max),
            (true, true) => format!("{kind} from {} to {}", self.min, self.max),
        }
    }
}

fn number(json: &[u8]) -> Option<f64> {
    matches!(json.first(), Some(b'-' | b'0'..=b'9'))
        .then(|| std::str::from_utf8(json).ok()?.parse().ok())
        .flatten()
}

/// Why JSON cannot be parsed into a tree.
fn not_read(error: &serde_json::Error) -> String {
    codec::json_error(error)
}

fn excerpt(json: &[u8]) -> String {
    let text = String::from_utf8_lossy(json);
    let mut short: String = text.chars().take(60).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(schema: &Value, arguments: &Arguments) -> Result<()> {
        Checks::default().parameters(schema, arguments)
    }

    fn fields(pairs: &[(&str, &'static str)]) -> Arguments {
        pairs
            .iter()
            .map(|(name, value)| ((*name).into(), Bytes::from_static(value.as_bytes())))
            .collect()
    }

    #[test]
    fn simple_values_are_checked_on_their_bytes() {
        let schema = json!({
            "type": "object", "additionalProperties": false, "required": ["n"],
            "properties": {
                "n": { "type": "integer", "minimum": 0 },
                "s": { "anyOf": [{ "type": "string" }, { "type": "null" }] },
                "any": {},
            },
        });
        for good in [
            fields(&[("n", "1")]),
            fields(&[("n", "1.0")]),
            fields(&[("n", "1e2"), ("s", "null")]),
            fields(&[("n", "0"), ("s", "\"x\""), ("any", "[1]")]),
        ] {
            run(&schema, &good).unwrap();
        }
        for (bad, why) in [
            (fields(&[]), "`n` is missing"),
            (fields(&[("n", "1.5")]), "expected an integer"),
            (fields(&[("n", "-1")]), "at least 0"),
            (fields(&[("n", "true")]), "expected an integer"),
            (fields(&[("n", "\"1\"")]), "found \"1\""),
            (fields(&[("n", "1"), ("s", "3")]), "expected a text"),
            (fields(&[("n", "1"), ("m", "3")]), "no argument `m`"),
        ] {
            let error = run(&schema, &bad).unwrap_err();
            assert!(error.to_string().contains(why), "{error} lacks {why}");
        }
    }

    #[test]
    fn everything_else_goes_to_the_library() {
        let schema = json!({
            "type": "object",
            "definitions": { "tag": { "type": "string", "pattern": "^[a-z]+$" } },
            "properties": { "tags": { "type": "array", "items": { "$ref": "#/definitions/tag" } } },
        });
        run(&schema, &fields(&[("tags", r#"["a","b"]"#), ("other", "1")])).unwrap();
        let error = run(&schema, &fields(&[("tags", r#"["a","B"]"#)])).unwrap_err();
        assert!(error.to_string().contains("/1"), "{error}");
    }
}
