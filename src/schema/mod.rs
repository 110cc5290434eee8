//! Schemas: the parameters and results of each API as JSON Schema, shared over the bus.
//!
//! Made from the types of a contract ([`document`]), published and renewed while the process
//! lives, and used to check messages in both directions. [`Schema::compare`] says what a new version
//! breaks, and for whom.

mod api_schema;
#[cfg_attr(not(feature = "validation"), path = "unchecked.rs")]
mod check;
mod compare;
mod difference;
mod document;
pub(crate) mod files;
mod policy;
mod shape;
mod store;

#[cfg(feature = "validation")]
use lightbus_core::{Args, codec};
use lightbus_core::{Error, ErrorKind, Result};
use serde_json::{Map, Value};

use crate::contract::Contract;

pub use compare::{Change, ChangeKind, Difference, Direction, Item, Party};
pub use document::{document, document_text};

pub(crate) use api_schema::ApiSchema;
pub(crate) use store::SchemaStore;

/// A document that describes an API.
#[derive(Clone, Debug, PartialEq)]
pub struct Schema {
    api: String,
    document: Value,
}

impl Schema {
    /// Creates a schema from a document, as it is on the bus or in a file.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Malformed`] if the document does not describe an API.
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

    /// Creates the schema of a contract.
    #[must_use]
    pub fn of(contract: &Contract) -> Self {
        Self { api: contract.name.to_owned(), document: document(contract) }
    }

    /// Returns the name of the API.
    #[must_use]
    pub fn api(&self) -> &str {
        &self.api
    }

    /// Returns the document.
    #[must_use]
    pub fn document(&self) -> &Value {
        &self.document
    }

    /// Compares two versions of an API. Returns the differences, ordered by the names of procedures and
    /// events, and which users of the older version each difference breaks.
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

    /// Validates the arguments of a call, as a caller and a worker do.
    ///
    /// ```
    /// use lightbus::{args, schema::Schema};
    /// # #[lightbus::api(name = "auth")] pub trait Auth { async fn greet(&self, name: String) -> String; }
    ///
    /// let schema = Schema::of(AuthClient::contract());
    /// schema.check_call("greet", args! { name: "Eve" })?;
    /// assert!(schema.check_call("greet", args! { name: 3 }).is_err());
    /// schema.check_result("greet", &"Hello")?;
    /// # Ok::<(), lightbus::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unknown`] if the API has no such procedure; [`ErrorKind::Invalid`] with what does
    /// not match.
    #[cfg(feature = "validation")]
    #[cfg_attr(docsrs, doc(cfg(feature = "validation")))]
    pub fn check_call(&self, procedure: &str, arguments: impl Into<Args>) -> Result<()> {
        self.compiled()?.check_call(procedure, &arguments.into().into_fields()?)
    }

    /// Validates the result of a call.
    ///
    /// # Errors
    ///
    /// See [`check_call`](Self::check_call).
    #[cfg(feature = "validation")]
    #[cfg_attr(docsrs, doc(cfg(feature = "validation")))]
    pub fn check_result<T: serde::Serialize + ?Sized>(
        &self,
        procedure: &str,
        result: &T,
    ) -> Result<()> {
        self.compiled()?.check_result(procedure, &codec::encode(result)?)
    }

    /// Validates the arguments of an event.
    ///
    /// # Errors
    ///
    /// See [`check_call`](Self::check_call).
    #[cfg(feature = "validation")]
    #[cfg_attr(docsrs, doc(cfg(feature = "validation")))]
    pub fn check_event(&self, event: &str, arguments: impl Into<Args>) -> Result<()> {
        self.compiled()?.check_event(event, &arguments.into().into_fields()?)
    }

    #[cfg(feature = "validation")]
    fn compiled(&self) -> Result<ApiSchema> {
        ApiSchema::read(codec::decode(&codec::encode(&self.document)?)?)
    }

    fn members(&self, section: &str) -> Map<String, Value> {
        self.document.get(section).and_then(Value::as_object).cloned().unwrap_or_default()
    }
}
