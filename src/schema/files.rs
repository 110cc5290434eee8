//! Schemas in files: saved from the bus, and loaded to check with.

use std::{collections::BTreeMap, io::ErrorKind as Io, path::Path};

use lightbus_core::{Error, ErrorKind, Name, Result};
use serde_json::{Value, value::RawValue};

use super::{ApiSchema, Schema};
use crate::Bus;

impl Bus {
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
    /// [`Unavailable`](ErrorKind::Unavailable) if the bus cannot be read;
    /// [`Unexpected`](ErrorKind::Unexpected) if the file cannot be written.
    pub async fn save_schemas(&self, to: impl AsRef<Path>) -> Result<Vec<Name>> {
        let to = to.as_ref();
        let saving = async {
            let inner = self.inner();
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
            let pretty = inner.config.bus.schema.human_readable;
            if to.is_dir() {
                for (name, document) in &all {
                    write(&to.join(format!("{name}.json")), document, pretty)?;
                }
            } else {
                write(to, &all, pretty)?;
            }
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
    /// [`Malformed`](ErrorKind::Malformed) with the file, if it is not JSON or describes no API;
    /// [`Unexpected`](ErrorKind::Unexpected) if it cannot be read. Then nothing is loaded.
    pub fn load_schemas(&self, from: impl AsRef<Path>) -> Result<Vec<Name>> {
        let from = from.as_ref();
        let loaded = read_all(from)
            .map_err(|error| error.during(format!("loading schemas from {}", from.display())))?;
        let names = loaded.iter().map(|(name, _)| Name::clone(name)).collect();
        self.inner().schema.take_files(loaded);
        Ok(names)
    }
}

fn write(file: &Path, value: &impl serde::Serialize, pretty: bool) -> Result<()> {
    let text = match pretty {
        true => serde_json::to_string_pretty(value),
        false => serde_json::to_string(value),
    };
    let text = text.map_err(|error| {
        Error::new(ErrorKind::Unexpected, "a schema cannot be written as JSON").because(error)
    })?;
    std::fs::write(file, text + "\n").map_err(|error| {
        Error::new(ErrorKind::Unexpected, format!("{} cannot be written: {error}", file.display()))
    })
}

fn read_all(from: &Path) -> Result<Vec<(Name, ApiSchema)>> {
    let mut documents: BTreeMap<String, Box<RawValue>> = BTreeMap::new();
    if from.is_dir() {
        let entries = std::fs::read_dir(from).map_err(|error| unreadable(from, &error))?;
        for entry in entries {
            let path = entry.map_err(|error| unreadable(from, &error))?.path();
            let api = path.file_name().and_then(|name| name.to_str());
            if let Some(api) = api.and_then(|name| name.strip_suffix(".json")) {
                documents.insert(api.to_owned(), parse(&path)?);
            }
        }
    } else {
        documents = parse(from)?;
    }
    let mut schemas = Vec::with_capacity(documents.len());
    for (api, text) in documents {
        // Held to be a description of an API.
        let document = lightbus_core::codec::decode(text.get().as_bytes())?;
        Schema::new(api.as_str(), document)?;
        schemas.push((api.into(), ApiSchema::read(text)?));
    }
    Ok(schemas)
}

fn parse<T: serde::de::DeserializeOwned>(file: &Path) -> Result<T> {
    let text = std::fs::read(file).map_err(|error| unreadable(file, &error))?;
    lightbus_core::codec::decode(&text).map_err(|error| error.with("file", file.display()))
}

fn unreadable(file: &Path, error: &std::io::Error) -> Error {
    let refused =
        Error::new(ErrorKind::Unexpected, format!("{} cannot be read: {error}", file.display()));
    match error.kind() {
        Io::NotFound => {
            refused.hint("Is the path right, and relative to the folder in which the program runs?")
        }
        _ => refused,
    }
}
