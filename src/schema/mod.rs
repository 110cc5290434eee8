//! Schemas: what each API takes and gives, as JSON Schema, shared over the bus.
//!
//! Made from the types of a contract ([`document`]), published and renewed while the process
//! lives, and used to check messages in both directions.

mod check;
mod document;
mod store;

pub use document::{document, document_text};

pub(crate) use check::ApiSchema;
pub(crate) use store::SchemaStore;
