//! Schemas in files.

use std::{collections::BTreeMap, io::ErrorKind as Io, path::Path};

use lightbus_core::{Error, ErrorKind, Name, Result};
use serde_json::{Value, value::RawValue};

use super::{ApiSchema, Schema};

/// Writes documents by API name: into a folder a file for each, otherwise into one file.
pub(crate) fn save(to: &Path, documents: &BTreeMap<String, Value>, pretty: bool) -> Result<()> {
    if !to.is_dir() {
        return write(to, documents, pretty);
    }
    for (name, document) in documents {
        write(&to.join(format!("{name}.json")), document, pretty)?;
    }
    Ok(())
}

fn write(file: &Path, value: &impl serde::Serialize, pretty: bool) -> Result<()> {
    let text = match pretty {
        true => serde_json::to_string_pretty(value),
        false => serde_json::to_string(value),
    };
    let text = text.map_err(|error| {
        Error::new(ErrorKind::Unexpected, "cannot encode a schema as JSON").because(error)
    })?;
    std::fs::write(file, text + "\n").map_err(|error| {
        Error::new(ErrorKind::Unexpected, format!("cannot write {}: {error}", file.display()))
    })
}

/// Reads documents written by [`save`].
pub(crate) fn load(from: &Path) -> Result<Vec<(Name, ApiSchema)>> {
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
        // Checks that the document describes an API.
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
        Error::new(ErrorKind::Unexpected, format!("cannot read {}: {error}", file.display()));
    match error.kind() {
        Io::NotFound => {
            refused.hint("Is the path right, and relative to the folder in which the program runs?")
        }
        _ => refused,
    }
}
