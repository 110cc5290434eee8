//! Saving schemas to files, and loading them for validation.

use std::{collections::BTreeMap, path::Path};

use lightbus_core::{Error, Name, Result};
use serde_json::Value;

use super::Admin;
use crate::schema::files::{load, save};

impl Admin {
    /// Saves the schemas of all APIs that this process knows, its own and those on the bus, as Python's
    /// `dumpschema` does. If `to` is a folder, writes a file `{api}.json` for each API; otherwise writes
    /// one file with an object of all schemas by name. The JSON is indented if
    /// `bus.schema.human_readable` is set. Returns the names of the APIs.
    ///
    /// Files are written with blocking calls.
    ///
    /// # Errors
    ///
    /// [`Unavailable`](lightbus_core::ErrorKind::Unavailable) if the broker does not answer;
    /// [`Unexpected`](lightbus_core::ErrorKind::Unexpected) if a file cannot be written.
    pub async fn save_schemas(&self, to: impl AsRef<Path>) -> Result<Vec<Name>> {
        let to = to.as_ref();
        let saving = async {
            let inner = self.bus.inner();
            inner.schema.load().await?;
            let names = inner.schema.apis();
            let mut all = BTreeMap::new();
            for name in &names {
                if let Some(schema) = inner.schema.get(name) {
                    let document: Value =
                        lightbus_core::codec::decode(schema.text().get().as_bytes())?;
                    all.insert(name.to_string(), document);
                }
            }
            save(to, &all, inner.config.bus.schema.human_readable)?;
            Ok(names)
        };
        saving
            .await
            .map_err(|error: Error| error.during(format!("saving schemas to {}", to.display())))
    }

    /// Loads schemas from a file or a folder written by [`save_schemas`](Self::save_schemas) or Python's
    /// `dumpschema`. They take precedence over those on the bus for validating messages, and are never
    /// published. With them, a process can call and listen without reading schemas from the bus, or
    /// validate against a fixed version. Accesses no broker; files are read with blocking calls. Returns
    /// the names of the APIs.
    ///
    /// An API whose schema is loaded counts as served: a call that no process answers times out.
    ///
    /// # Errors
    ///
    /// [`Malformed`](lightbus_core::ErrorKind::Malformed), naming the file, if it is not JSON or does not
    /// describe an API; [`Unexpected`](lightbus_core::ErrorKind::Unexpected) if it cannot be read. Nothing
    /// is loaded then.
    pub fn load_schemas(&self, from: impl AsRef<Path>) -> Result<Vec<Name>> {
        let from = from.as_ref();
        let loaded = load(from)
            .map_err(|error| error.during(format!("loading schemas from {}", from.display())))?;
        let names = loaded.iter().map(|(name, _)| Name::clone(name)).collect();
        self.bus.inner().schema.take_files(loaded);
        Ok(names)
    }
}
