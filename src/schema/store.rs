//! The schemas that a process knows: its own, which it publishes and renews, those from files, and those
//! on the bus.

use std::{
    collections::{BTreeMap, HashMap},
    pin::pin,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::stream::{self, StreamExt};
use lightbus_core::{
    Error, ErrorKind, Name, Result, codec, time::LONGEST, transport::SchemaTransport,
};
use serde_json::value::RawValue;
use tokio::{
    sync::{Mutex, Notify},
    time::sleep,
};

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
    /// How many reads of the bus have started. A number and not a time: in a test whose time stands
    /// still, an old read and a new one would have the same.
    reads: AtomicU64,
    /// The number of the last read that succeeded. Locked while the bus is read.
    last_read: Mutex<u64>,
    /// Locked by the one who reads the bus again and again, of all who wait for a schema.
    looking: Mutex<()>,
    /// Rung when the bus has been read.
    looked: Notify,
}

#[derive(Debug, Default)]
struct Known {
    /// Those of the APIs that this process has registered.
    local: HashMap<Name, Arc<ApiSchema>>,
    /// Those from files: used for validation, never published.
    files: HashMap<Name, Arc<ApiSchema>>,
    /// Those on the bus, as last read.
    remote: HashMap<Name, Arc<ApiSchema>>,
    /// Those that were on the bus and have expired. A schema also expires if it could not be renewed in
    /// time although its service works: messages are then validated against the last known one.
    gone: HashMap<Name, Arc<ApiSchema>>,
}

/// How many expired schemas are kept.
const MOST_GONE: usize = 1_000;
/// How many schemas are renewed concurrently.
const AT_ONCE: usize = 8;
/// How often the bus is read while a schema is waited for.
const LOOK: Duration = Duration::from_millis(200);

impl SchemaStore {
    pub(crate) fn new(transport: Arc<dyn SchemaTransport>, config: &SchemaConfig) -> Self {
        Self {
            transport,
            ttl: config.ttl.min(LONGEST),
            on_incompatible: config.on_incompatible,
            known: RwLock::default(),
            reads: AtomicU64::new(0),
            last_read: Mutex::new(0),
            looking: Mutex::new(()),
            looked: Notify::new(),
        }
    }

    pub(crate) fn transport(&self) -> &Arc<dyn SchemaTransport> {
        &self.transport
    }

    pub(crate) fn ttl(&self) -> Duration {
        self.ttl
    }

    /// Publishes the schema of an API that this process registers, unless the policy forbids replacing
    /// the one on the bus.
    pub(crate) async fn publish(&self, contract: &Contract) -> Result<()> {
        if self.on_incompatible != OnIncompatible::Ignore
            && let Some(old) = self.on_the_bus(contract.name).await?
        {
            policy::apply(self.on_incompatible, &old, &Schema::of(contract))?;
        }
        let schema = Arc::new(ApiSchema::read(document_text(contract)?)?);
        self.put(contract.name, schema.text()).await?;
        self.write().local.insert(contract.name.into(), schema);
        Ok(())
    }

    /// Stores a schema on the bus, with the usual time to live.
    pub(crate) async fn store(&self, schema: &Schema) -> Result<()> {
        let text: Box<RawValue> = codec::decode(&codec::encode(schema.document())?)?;
        self.put(schema.api(), &text).await
    }

    async fn put(&self, api: &str, text: &RawValue) -> Result<()> {
        let stored = self.transport.store(api, text, self.ttl).await;
        stored.map_err(|error| error.during(format!("storing the schema of {api}")))
    }

    /// Reads the schema of an API from the bus.
    pub(crate) async fn on_the_bus(&self, api: &str) -> Result<Option<Schema>> {
        self.load().await?;
        let Some(schema) = self.read().remote.get(api).cloned() else { return Ok(None) };
        let document = codec::decode(schema.text().get().as_bytes())?;
        Schema::new(api, document).map(Some)
    }

    /// Returns the schemas that this process publishes.
    pub(crate) fn published(&self) -> Vec<(Name, Arc<ApiSchema>)> {
        let known = self.read();
        known.local.iter().map(|(api, schema)| (Arc::clone(api), Arc::clone(schema))).collect()
    }

    /// Renews schemas. Returns those that could not be renewed, each with its error. A failure of one does
    /// not affect the others.
    pub(crate) async fn renew(
        &self,
        schemas: Vec<(Name, Arc<ApiSchema>)>,
    ) -> Vec<(Name, Arc<ApiSchema>, Error)> {
        let renewals = schemas.into_iter().map(async |(api, schema)| {
            // Stored again rather than pinged: another process may have replaced it.
            self.put(&api, schema.text()).await.err().map(|error| (api, schema, error))
        });
        let renewals = stream::iter(renewals).buffer_unordered(AT_ONCE);
        renewals.filter_map(std::future::ready).collect().await
    }

    /// Reads the schemas on the bus.
    pub(crate) async fn load(&self) -> Result<()> {
        let mut last_read = self.last_read.lock().await;
        self.load_locked(&mut last_read).await
    }

    async fn load_locked(&self, last_read: &mut u64) -> Result<()> {
        let number = self.reads.fetch_add(1, Ordering::SeqCst).saturating_add(1);
        let documents = self.transport.load().await;
        let documents = documents.map_err(|error| error.during("loading the schemas"))?;
        *last_read = number;
        self.take_over(documents);
        Ok(())
    }

    fn take_over(&self, documents: BTreeMap<String, Box<RawValue>>) {
        let mut known = self.write();
        let mut remote = HashMap::with_capacity(documents.len());
        for (api, text) in documents {
            let api: Name = api.into();
            // Unchanged schemas keep their compiled checks.
            let old = known.remote.remove(&api);
            let unchanged = old.clone().filter(|old| old.text().get() == text.get());
            let schema = unchanged.map_or_else(|| ApiSchema::read(text).map(Arc::new), Ok);
            match schema {
                Ok(schema) => {
                    remote.insert(api, schema);
                }
                Err(error) => {
                    tracing::warn!(%api, %error, "ignoring an invalid schema on the bus");
                    known.gone.extend(old.map(|old| (api, old)));
                }
            }
        }
        let missing = std::mem::replace(&mut known.remote, remote);
        known.gone.extend(missing);
        let Known { remote, gone, .. } = &mut *known;
        gone.retain(|api, _| !remote.contains_key(api));
        if gone.len() > MOST_GONE {
            gone.clear();
        }
    }

    /// Adds schemas from files.
    pub(crate) fn take_files(&self, schemas: Vec<(Name, ApiSchema)>) {
        let schemas = schemas.into_iter().map(|(api, schema)| (api, Arc::new(schema)));
        self.write().files.extend(schemas);
    }

    /// Returns the schema to validate messages of an API against: the process's own, one from a file, the
    /// one on the bus, or the last known one.
    pub(crate) fn get(&self, api: &str) -> Option<Arc<ApiSchema>> {
        let known = self.read();
        let sources = [&known.local, &known.files, &known.remote, &known.gone];
        sources.into_iter().find_map(|source| source.get(api)).cloned()
    }

    /// Whether the schema of an API is this process's own, or was on the bus when it was last read.
    pub(crate) fn is_live(&self, api: &str) -> bool {
        let known = self.read();
        known.local.contains_key(api) || known.remote.contains_key(api)
    }

    /// Like [`get`](Self::get), and reads the bus if the API is unknown.
    pub(crate) async fn find(&self, api: &str) -> Result<Option<Arc<ApiSchema>>> {
        if let Some(schema) = self.get(api) {
            return Ok(Some(schema));
        }
        let asked = self.reads.load(Ordering::SeqCst);
        let mut last_read = self.last_read.lock().await;
        // Of many concurrent callers, one reads. A read that had started before does not count.
        if *last_read <= asked {
            self.load_locked(&mut last_read).await?;
        }
        Ok(self.get(api))
    }

    /// Waits until the schema of an API is on the bus. However many wait, one of them reads the bus. Fails
    /// once the transport is closed.
    pub(crate) async fn arrival(&self, api: &str) -> Result<Arc<ApiSchema>> {
        loop {
            let mut looked = pin!(self.looked.notified());
            looked.as_mut().enable();
            if let Some(schema) = self.get(api) {
                return Ok(schema);
            }
            tokio::select! {
                biased;
                () = looked => {}
                _looking = self.looking.lock() => {
                    match self.load().await {
                        Err(error) if error.kind() == ErrorKind::Closed => return Err(error),
                        Err(error) => {
                            tracing::debug!(%error, api, "cannot read the schema that is waited for");
                        }
                        Ok(()) => {}
                    }
                    self.looked.notify_waiters();
                    if self.get(api).is_none() {
                        sleep(LOOK).await;
                    }
                }
            }
        }
    }

    /// Returns the names of all APIs with a known schema, sorted.
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
