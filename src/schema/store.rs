//! The schemas that this process knows: its own, which it publishes and renews, and those on the
//! bus.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use lightbus_core::{Name, Result, codec, transport::SchemaTransport};
use serde_json::value::RawValue;
use tokio::{sync::Mutex, time::Instant};

use super::{ApiSchema, Schema, document_text, policy};
use crate::{
    config::{OnIncompatible, SchemaConfig},
    contract::Contract,
};

#[derive(Debug)]
pub(crate) struct SchemaStore {
    transport: Arc<dyn SchemaTransport>,
    ttl: Duration,
    on_incompatible: OnIncompatible,
    known: RwLock<Known>,
    loaded: Mutex<Option<Instant>>,
}

#[derive(Debug, Default)]
struct Known {
    /// Of the APIs that this process registered.
    local: HashMap<Name, Arc<ApiSchema>>,
    /// From files: to check with, never published.
    files: HashMap<Name, Arc<ApiSchema>>,
    /// Of all APIs on the bus, as last read.
    remote: HashMap<Name, Arc<ApiSchema>>,
}

impl SchemaStore {
    pub(crate) fn new(transport: Arc<dyn SchemaTransport>, config: &SchemaConfig) -> Self {
        Self {
            transport,
            ttl: config.ttl,
            on_incompatible: config.on_incompatible,
            known: RwLock::default(),
            loaded: Mutex::new(None),
        }
    }

    pub(crate) fn transport(&self) -> &Arc<dyn SchemaTransport> {
        &self.transport
    }

    pub(crate) fn ttl(&self) -> Duration {
        self.ttl
    }

    /// Publishes the schema of an API that this process registered, unless it must not take the
    /// place of the one on the bus.
    pub(crate) async fn publish(&self, contract: &Contract) -> Result<()> {
        if self.on_incompatible != OnIncompatible::Ignore
            && let Some(old) = self.on_the_bus(contract.name).await?
        {
            policy::apply(self.on_incompatible, &old, &Schema::of(contract))?;
        }
        let schema = Arc::new(ApiSchema::read(document_text(contract)?)?);
        self.transport.store(contract.name, schema.text(), self.ttl).await?;
        self.write().local.insert(contract.name.into(), schema);
        Ok(())
    }

    /// Puts a document on the bus, for as long as a schema lives.
    pub(crate) async fn store(&self, schema: &Schema) -> Result<()> {
        let text: Box<RawValue> = codec::decode(&codec::encode(schema.document())?)?;
        self.transport.store(schema.api(), &text, self.ttl).await
    }

    /// The schema of an API that is on the bus now.
    pub(crate) async fn on_the_bus(&self, api: &str) -> Result<Option<Schema>> {
        self.load().await?;
        let Some(schema) = self.read().remote.get(api).cloned() else { return Ok(None) };
        let document = codec::decode(schema.text().get().as_bytes())?;
        Schema::new(api, document).map(Some)
    }

    /// Renews what was published, and reads what is on the bus.
    pub(crate) async fn refresh(&self) -> Result<()> {
        let local: Vec<_> = {
            let known = self.read();
            known.local.iter().map(|(api, schema)| (Arc::clone(api), Arc::clone(schema))).collect()
        };
        for (api, schema) in local {
            // Stored again rather than pinged: another process may have stored its own idea of it.
            self.transport.store(&api, schema.text(), self.ttl).await?;
        }
        self.load().await
    }

    /// Reads what is on the bus.
    pub(crate) async fn load(&self) -> Result<()> {
        let mut loaded = self.loaded.lock().await;
        self.load_locked(&mut loaded).await
    }

    async fn load_locked(&self, loaded: &mut Option<Instant>) -> Result<()> {
        let began = Instant::now();
        let documents = self.transport.load().await?;
        *loaded = Some(began);
        self.take_over(documents);
        Ok(())
    }

    fn take_over(&self, documents: BTreeMap<String, Box<RawValue>>) {
        let mut known = self.write();
        let mut remote = HashMap::with_capacity(documents.len());
        for (api, text) in documents {
            let api: Name = api.into();
            // What did not change keeps its compiled checks.
            let unchanged = known.remote.remove(&api).filter(|old| old.text().get() == text.get());
            let schema = unchanged.map_or_else(|| ApiSchema::read(text).map(Arc::new), Ok);
            match schema {
                Ok(schema) => {
                    remote.insert(api, schema);
                }
                Err(error) => tracing::warn!(%api, %error, "a schema on the bus cannot be used"),
            }
        }
        known.remote = remote;
    }

    /// Takes over what was read from files.
    pub(crate) fn take_files(&self, schemas: Vec<(Name, ApiSchema)>) {
        let schemas = schemas.into_iter().map(|(api, schema)| (api, Arc::new(schema)));
        self.write().files.extend(schemas);
    }

    /// The schema to check messages of an API with: this process' own, or from a file, or that on the
    /// bus.
    pub(crate) fn get(&self, api: &str) -> Option<Arc<ApiSchema>> {
        let known = self.read();
        let sources = [&known.local, &known.files, &known.remote];
        sources.into_iter().find_map(|source| source.get(api)).cloned()
    }

    /// The same; an API that is not known is looked for on the bus.
    pub(crate) async fn find(&self, api: &str) -> Result<Option<Arc<ApiSchema>>> {
        if let Some(schema) = self.get(api) {
            return Ok(Some(schema));
        }
        let asked = Instant::now();
        let mut loaded = self.loaded.lock().await;
        // Of many calls that ask at once, one reads.
        if loaded.is_none_or(|at| at < asked) {
            self.load_locked(&mut loaded).await?;
        }
        Ok(self.get(api))
    }

    /// The APIs on the bus, and this process' own, sorted.
    pub(crate) fn apis(&self) -> Vec<Name> {
        let known = self.read();
        let sources = [&known.local, &known.files, &known.remote];
        let mut names: Vec<_> = sources.into_iter().flat_map(HashMap::keys).cloned().collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Known> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Known> {
        self.known.write().unwrap_or_else(PoisonError::into_inner)
    }
}
