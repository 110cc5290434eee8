//! Schemas in files: saved from the bus, and loaded to check with.

use std::{collections::BTreeMap, path::Path};

use lightbus_core::{Error, Name, Result};
use serde_json::Value;

use super::Admin;
use crate::schema::files::{load, save};

impl Admin {
    /// Saves the documents of all APIs that this process knows, its own and those on the bus, as
    /// Python's `dumpschema` does. Into a folder: a file `{api}.json` for each. Else into one file: an
    /// object with each document under its API's name. Indented, if `bus.schema.human_readable` says
    /// so. Gives the names of the APIs.
    ///
    /// Files are read and written in place: in async code on small files only, or in
    /// `spawn_blocking`.
    ///
    /// # Errors
    ///
    /// [`Unavailable`](lightbus_core::ErrorKind::Unavailable) if the bus cannot be read;
    /// [`Unexpected`](lightbus_core::ErrorKind::Unexpected) if the file cannot be written.
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

    /// Loads documents from a file or a folder that [`save_schemas`](Self::save_schemas), or Python's
    /// `dumpschema`, has written. They are used to check messages, before what is on the bus, and never
    /// published: so a process can call and listen where it may not read schemas, or is held to a
    /// version. Gives the names of the APIs.
    ///
    /// An API of which a document is loaded counts as served: a call that nobody answers then ends
    /// with its timeout.
    ///
    /// # Errors
    ///
    /// [`Malformed`](lightbus_core::ErrorKind::Malformed) with the file, if it is not JSON or describes no API;
    /// [`Unexpected`](lightbus_core::ErrorKind::Unexpected) if it cannot be read. Then nothing is loaded.
    pub fn load_schemas(&self, from: impl AsRef<Path>) -> Result<Vec<Name>> {
        let from = from.as_ref();
        let loaded = load(from)
            .map_err(|error| error.during(format!("loading schemas from {}", from.display())))?;
        let names = loaded.iter().map(|(name, _)| Name::clone(name)).collect();
        self.bus.inner().schema.take_files(loaded);
        Ok(names)
    }
}
