//! Publishes what is called, fired and handled.

use std::sync::{
    Arc, OnceLock, Weak,
    atomic::{AtomicU64, Ordering},
};

use async_trait::async_trait;
use lightbus_core::{Arguments, EventMessage, Name, Result, ResultMessage, RpcMessage};
use tokio::sync::{mpsc, oneshot};

use super::{
    Plugin,
    internal::{event, message, parameter, publish, put, send, timestamp},
};
use crate::{
    Bus,
    contract::{Contract, Parameter},
};

const API: &str = "internal.metrics";
/// The most events that wait to be sent. Further ones are dropped: metrics never block work.
const QUEUE: usize = 4096;
/// The most events sent at once.
const BATCH: usize = 256;

type Any = serde_json::Map<String, serde_json::Value>;
/// A header of an event.
type Header<'a> = Option<(&'static str, &'a str)>;

/// The header of a failed call.
const FAILED: (&str, &str) = ("failed", "true");

macro_rules! parameters {
    ($($name:literal: $type:ty),* $(,)?) => {
        &[
            $(parameter::<$type>($name),)*
            parameter::<f64>("timestamp"),
            parameter::<String>("service_name"),
            parameter::<String>("process_name"),
        ]
    };
}

const CALL: &[Parameter] = parameters!("id": String, "api_name": String, "procedure_name": String);
const EVENT: &[Parameter] =
    parameters!("event_id": String, "api_name": String, "event_name": String, "kwargs": Any);

static CONTRACT: Contract = Contract {
    name: API,
    version: 1,
    description: "What processes do.",
    procedures: &[],
    events: &[
        event(
            "rpc_call_sent",
            "A process is about to call.",
            parameters!("id": String, "api_name": String, "procedure_name": String, "kwargs": Any),
        ),
        event("rpc_call_received", "A process is about to execute a call.", CALL),
        event(
            "rpc_response_sent",
            "A process has executed a call.",
            parameters!("id": String, "api_name": String, "procedure_name": String, "result": serde_json::Value),
        ),
        event("rpc_response_received", "A call was answered.", CALL),
        event("event_fired", "A process has fired an event.", EVENT),
        event("event_received", "A process is about to handle an event.", EVENT),
        event("event_processed", "A process has handled an event.", EVENT),
    ],
    requires: &[],
};

/// Fires the events of `internal.metrics` around every call and event, as Python's plugin does. Nothing
/// is fired for internal APIs.
///
/// Events are sent in the background, in order and in batches. If more than 4096 are waiting, new ones
/// are dropped, and their number is logged. `event_id` is the event's id; in Python it is a constant by
/// mistake. Arguments and results are included, [sensitive](crate::Sensitive) ones redacted.
///
/// Headers tell what Python's events lack, so that the arguments stay as in Python: `failed` on
/// `rpc_response_sent` and `rpc_response_received`, `listener` on `event_received` and
/// `event_processed`.
#[derive(Debug, Default)]
pub struct MetricsPlugin {
    sender: OnceLock<mpsc::Sender<Job>>,
    left_out: Arc<AtomicU64>,
}

#[derive(Debug)]
enum Job {
    Send(EventMessage),
    /// Notify when everything before it has been sent.
    Flush(oneshot::Sender<()>),
}

impl MetricsPlugin {
    /// Queues an event to be sent.
    fn fire(
        &self,
        bus: &Bus,
        event: &'static str,
        mut fields: Arguments,
        header: Header<'_>,
    ) -> Result<()> {
        put(&mut fields, "timestamp", &timestamp())?;
        put(&mut fields, "service_name", bus.service_name())?;
        put(&mut fields, "process_name", bus.process_name())?;
        let sender = self.sender.get_or_init(|| {
            let (sender, jobs) = mpsc::channel(QUEUE);
            let (weak, left_out) = (Arc::downgrade(bus.inner()), Arc::clone(&self.left_out));
            // Shared with the task that takes its place if it panics.
            let jobs = Arc::new(tokio::sync::Mutex::new(jobs));
            bus.inner().spawn_detached("events of internal_metrics", move || {
                let (weak, left_out) = (Weak::clone(&weak), Arc::clone(&left_out));
                let jobs = Arc::clone(&jobs);
                async move { send_all(weak, &mut *jobs.lock().await, left_out).await }
            });
            sender
        });
        let mut event = message(bus, &Name::from(API), event, fields);
        if let Some((name, value)) = header {
            event.headers.set(name, value);
        }
        if sender.try_send(Job::Send(event)).is_err() {
            self.left_out.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    fn fire_call(
        &self,
        bus: &Bus,
        event: &'static str,
        call: &RpcMessage,
        header: Header<'_>,
        add: impl FnOnce(&mut Arguments) -> Result<()>,
    ) -> Result<()> {
        if is_internal(&call.api) {
            return Ok(());
        }
        let mut fields = Arguments::with_capacity(7);
        put(&mut fields, "id", &*call.id)?;
        put(&mut fields, "api_name", &*call.api)?;
        put(&mut fields, "procedure_name", &*call.procedure)?;
        add(&mut fields)?;
        self.fire(bus, event, fields, header)
    }

    fn fire_event(
        &self,
        bus: &Bus,
        name: &'static str,
        event: &EventMessage,
        listener: Option<&str>,
    ) -> Result<()> {
        if is_internal(&event.api) {
            return Ok(());
        }
        let mut fields = Arguments::with_capacity(7);
        put(&mut fields, "event_id", &*event.id)?;
        put(&mut fields, "api_name", &*event.api)?;
        put(&mut fields, "event_name", &*event.event)?;
        let schema = bus.inner().schema.get(&event.api);
        match schema.and_then(|schema| schema.shown_event(&event.event, &event.fields)) {
            Some(shown) => put(&mut fields, "kwargs", &shown)?,
            None => fields.push("kwargs", object(&event.fields)?),
        }
        self.fire(bus, name, fields, listener.map(|listener| ("listener", listener)))
    }
}

fn is_internal(api: &str) -> bool {
    api.starts_with("internal.")
}

/// Encodes all arguments as one JSON object.
fn object(arguments: &Arguments) -> Result<Vec<u8>> {
    let mut text = Vec::with_capacity(arguments.size() + 8 * arguments.len() + 2);
    text.push(b'{');
    for (index, (name, value)) in arguments.iter().enumerate() {
        if index > 0 {
            text.push(b',');
        }
        text.extend_from_slice(&lightbus_core::codec::encode(&**name)?);
        text.push(b':');
        text.extend_from_slice(value);
    }
    text.push(b'}');
    Ok(text)
}

async fn send_all(
    bus: Weak<crate::bus::Inner>,
    jobs: &mut mpsc::Receiver<Job>,
    left_out: Arc<AtomicU64>,
) {
    let mut batch = Vec::with_capacity(BATCH);
    let mut published = false;
    while jobs.recv_many(&mut batch, BATCH).await > 0 {
        let Some(bus) = bus.upgrade().map(Bus::from_inner) else { return };
        if !std::mem::replace(&mut published, true) {
            publish(&bus, &CONTRACT).await;
        }
        let (mut events, mut flushed) = (Vec::with_capacity(batch.len()), Vec::new());
        for job in batch.drain(..) {
            match job {
                Job::Send(event) => events.push(event),
                Job::Flush(done) => flushed.push(done),
            }
        }
        if !events.is_empty()
            && let Err(error) = send(&bus, API, &events).await
        {
            tracing::warn!(%error, events = events.len(), "could not send metrics; they are lost");
        }
        let left_out = left_out.swap(0, Ordering::Relaxed);
        if left_out > 0 {
            tracing::warn!(left_out, "metrics were dropped: the queue was full");
        }
        for done in flushed {
            let _ = done.send(());
        }
    }
}

#[async_trait]
impl Plugin for MetricsPlugin {
    fn name(&self) -> &str {
        "internal_metrics"
    }

    fn priority(&self) -> u32 {
        110
    }

    async fn before_rpc_call(&self, bus: &Bus, call: &mut RpcMessage) -> Result<()> {
        self.fire_call(bus, "rpc_call_sent", call, None, |fields| {
            let schema = bus.inner().schema.get(&call.api);
            match schema.and_then(|schema| schema.shown_call(&call.procedure, &call.fields)) {
                Some(shown) => put(fields, "kwargs", &shown)?,
                None => fields.push("kwargs", object(&call.fields)?),
            }
            Ok(())
        })
    }

    async fn after_rpc_call(
        &self,
        bus: &Bus,
        call: &RpcMessage,
        result: &mut ResultMessage,
    ) -> Result<()> {
        let failed = result.body.is_err().then_some(FAILED);
        self.fire_call(bus, "rpc_response_received", call, failed, |_| Ok(()))
    }

    async fn before_rpc_execution(&self, bus: &Bus, call: &mut RpcMessage) -> Result<()> {
        self.fire_call(bus, "rpc_call_received", call, None, |_| Ok(()))
    }

    async fn after_rpc_execution(
        &self,
        bus: &Bus,
        call: &RpcMessage,
        result: &mut ResultMessage,
    ) -> Result<()> {
        let failed = result.body.is_err().then_some(FAILED);
        self.fire_call(bus, "rpc_response_sent", call, failed, |fields| match &result.body {
            Ok(value) => {
                let schema = bus.inner().schema.get(&call.api);
                match schema.and_then(|schema| schema.shown_result(&call.procedure, value)) {
                    Some(shown) => put(fields, "result", &shown)?,
                    None => fields.push("result", value.clone()),
                }
                Ok(())
            }
            Err(error) => put(fields, "result", &error.message),
        })
    }

    async fn after_event_sent(&self, bus: &Bus, event: &EventMessage) -> Result<()> {
        self.fire_event(bus, "event_fired", event, None)
    }

    async fn before_event_execution(
        &self,
        bus: &Bus,
        event: &mut EventMessage,
        listener: &str,
    ) -> Result<()> {
        self.fire_event(bus, "event_received", event, Some(listener))
    }

    async fn after_event_execution(
        &self,
        bus: &Bus,
        event: &EventMessage,
        listener: &str,
    ) -> Result<()> {
        self.fire_event(bus, "event_processed", event, Some(listener))
    }

    async fn after_stop(&self, _: &Bus) -> Result<()> {
        let Some(sender) = self.sender.get() else { return Ok(()) };
        let (done, flushed) = oneshot::channel();
        if sender.send(Job::Flush(done)).await.is_ok() {
            let _ = flushed.await;
        }
        Ok(())
    }
}
