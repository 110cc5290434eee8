//! Checks events against a schema: the one on the bus, or a saved one.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use lightbus::{Bus, ErrorKind, EventMessage, schema::Schema};

use crate::{failure::Failure, output, schema};

/// The result of checking an event against its schema.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Fits,
    /// There is no schema of its API, or the schema has no such event.
    Unknown(String),
    Wrong(String),
}

/// Checks events against schemas.
pub(crate) struct Checker {
    saved: Option<PathBuf>,
    schemas: BTreeMap<String, Option<Schema>>,
    /// How many did not fit.
    pub(crate) wrong: u64,
}

impl Checker {
    /// With the schemas in this file, or else those on the bus.
    pub(crate) fn new(file: Option<&Path>) -> Result<Self, Failure> {
        let saved = file.map(schema::read).transpose()?.unwrap_or_default();
        let schemas = saved.into_iter().map(|(api, schema)| (api, Some(schema))).collect();
        Ok(Self { saved: file.map(Path::to_owned), schemas, wrong: 0 })
    }

    pub(crate) async fn check(
        &mut self,
        bus: &Bus,
        event: &EventMessage,
    ) -> Result<Verdict, Failure> {
        if self.saved.is_none() && !self.schemas.contains_key(&*event.api) {
            let document = bus.schema(&event.api).await?;
            let schema = document.map(|document| Schema::new(&*event.api, document)).transpose()?;
            self.schemas.insert(event.api.to_string(), schema);
        }
        let Some(Some(schema)) = self.schemas.get(&*event.api) else {
            let place = match &self.saved {
                Some(file) => file.display().to_string(),
                None => "the bus".to_owned(),
            };
            return Ok(Verdict::Unknown(format!("{place} has no schema of `{}`", event.api)));
        };
        let verdict = match schema.check_event(&event.event, event.fields.clone()) {
            Ok(()) => Verdict::Fits,
            // It may be newer or older than the schema. Listeners accept it.
            Err(error) if error.kind() == ErrorKind::Unknown => {
                Verdict::Unknown(error.message().to_owned())
            }
            // The message may quote a value that only the schema on the bus marks as sensitive.
            Err(_) if self.saved.is_some() && output::is_hidden(bus, event) => {
                Verdict::Wrong("the arguments do not match the schema".to_owned())
            }
            Err(error) => Verdict::Wrong(error.message().to_owned()),
        };
        self.wrong += u64::from(matches!(verdict, Verdict::Wrong(_)));
        Ok(verdict)
    }
}
