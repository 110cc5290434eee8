//! Schemas: what each API takes and gives, as JSON Schema, shared over the bus.
//!
//! Made from the types of a contract ([`document`]), published and renewed while the process
//! lives, and used to check messages in both directions. [`Schema::compare`] says what a new version
//! breaks, and for whom.

mod check;
mod compare;
mod difference;
mod document;
mod policy;
mod shape;
mod store;

use lightbus_core::{Error, ErrorKind, Result};
use serde_json::{Map, Value};

use crate::contract::Contract;

pub use compare::{Change, ChangeKind, Difference, Direction, Item, Party};
pub use document::{document, document_text};

pub(crate) use check::ApiSchema;
pub(crate) use store::SchemaStore;

/// The document that describes an API.
#[derive(Clone, Debug, PartialEq)]
pub struct Schema {
    api: String,
    document: Value,
}

impl Schema {
    /// Takes a document as it is on the bus, or in a file.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Malformed`] if it is no description of an API.
    pub fn new(api: impl Into<String>, document: Value) -> Result<Self> {
        let api = api.into();
        for section in ["rpcs", "events"] {
            let is_mapping = |value: &Value| value.is_object() || value.is_null();
            if !document.is_object() || !document.get(section).is_none_or(is_mapping) {
                let message = format!("a schema is a mapping, and so are its `{section}`");
                return Err(Error::new(ErrorKind::Malformed, message)
                    .during(format!("reading the schema of {api}")));
            }
        }
        Ok(Self { api, document })
    }

    /// Describes a contract.
    #[must_use]
    pub fn of(contract: &Contract) -> Self {
        Self { api: contract.name.to_owned(), document: document(contract) }
    }

    /// The API that it describes.
    #[must_use]
    pub fn api(&self) -> &str {
        &self.api
    }

    /// The document.
    #[must_use]
    pub fn document(&self) -> &Value {
        &self.document
    }

    /// What differs between two versions of an API, in the order of their members' names, and whom
    /// of the older version each difference breaks.
    ///
    /// ```
    /// use lightbus::schema::{Party, Schema};
    /// use serde_json::json;
    ///
    /// let version = |arguments: serde_json::Value| {
    ///     let parameters = json!({ "type": "object", "properties": arguments, "required": ["name"] });
    ///     Schema::new("auth", json!({ "rpcs": { "greet": { "parameters": parameters } } }))
    /// };
    /// let old = version(json!({ "name": { "type": ["string", "null"] } }))?;
    /// let new = version(json!({ "name": { "type": "string" } }))?;
    /// let changes = Schema::compare(&old, &new);
    /// assert_eq!(changes[0].breaks, [Party::Callers]);
    /// assert_eq!(
    ///     changes[0].to_string(),
    ///     "auth.greet: the argument `name`: no longer null (breaks callers of the older version)"
    /// );
    /// # Ok::<(), lightbus::Error>(())
    /// ```
    #[must_use]
    pub fn compare(old: &Self, new: &Self) -> Vec<Change> {
        compare::compare(old, new)
    }

    fn members(&self, section: &str) -> Map<String, Value> {
        self.document.get(section).and_then(Value::as_object).cloned().unwrap_or_default()
    }
}
