//! Publishes that processes start, live and stop.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use lightbus_core::{Arguments, Name, Result};
use tokio::task::JoinHandle;

use super::{
    Plugin,
    internal::{event, message, parameter, publish, put, send, timestamp},
};
use crate::{
    Bus, config,
    contract::{Contract, Parameter},
};

const API: &str = "internal.state";

const NAMES: &[Parameter] =
    &[parameter::<String>("process_name"), parameter::<String>("service_name")];
const ALIVE: &[Parameter] = &[
    parameter::<String>("process_name"),
    parameter::<String>("service_name"),
    parameter::<bool>("metrics_enabled"),
    parameter::<Vec<String>>("api_names"),
    parameter::<Vec<String>>("listening_for"),
    parameter::<f64>("timestamp"),
    parameter::<bool>("ping_enabled"),
    parameter::<f64>("ping_interval"),
    parameter::<String>("hostname"),
    parameter::<u32>("pid"),
    parameter::<u64>("max_memory_use"),
];

static CONTRACT: Contract = Contract {
    name: API,
    version: 1,
    description: "Which processes there are.",
    procedures: &[],
    events: &[
        event("worker_started", "A process has begun to run.", ALIVE),
        event("worker_ping", "A process runs.", ALIVE),
        event("worker_stopped", "A process is about to end.", NAMES),
    ],
    requires: &[],
};

/// Fires the events of `internal.state`, as Python's plugin does: `worker_started` when
/// [`Bus::run`] has started, `worker_ping` periodically, `worker_stopped` at its end.
///
/// Python's plugin sends fields that its own schema does not allow. The schema here describes what is
/// sent.
#[derive(Debug)]
pub struct StatePlugin {
    ping_interval: Option<Duration>,
    metrics_enabled: bool,
    pings: Mutex<Option<JoinHandle<()>>>,
    told: AtomicBool,
}

impl StatePlugin {
    pub(crate) fn new(config: &config::PluginsConfig) -> Self {
        let state = &config.internal_state;
        Self {
            ping_interval: state.ping_enabled.then_some(state.ping_interval),
            metrics_enabled: config.internal_metrics.enabled,
            pings: Mutex::new(None),
            told: AtomicBool::new(false),
        }
    }
}

#[async_trait]
impl Plugin for StatePlugin {
    fn name(&self) -> &str {
        "internal_state"
    }

    fn priority(&self) -> u32 {
        100
    }

    async fn after_start(&self, bus: &Bus) -> Result<()> {
        publish(bus, &CONTRACT).await;
        let alive =
            Alive { ping_interval: self.ping_interval, metrics_enabled: self.metrics_enabled };
        alive.fire(bus, "worker_started").await?;
        self.told.store(true, Ordering::Relaxed);
        if let Some(interval) = self.ping_interval {
            let weak = Arc::downgrade(bus.inner());
            let pings = bus.inner().spawn_detached("pings of internal_state", move || {
                let weak = Weak::clone(&weak);
                async move {
                    loop {
                        tokio::time::sleep(interval).await;
                        let Some(bus) = weak.upgrade().map(Bus::from_inner) else { return };
                        if let Err(error) = alive.fire(&bus, "worker_ping").await {
                            tracing::warn!(%error, "could not fire `worker_ping`");
                        }
                    }
                }
            });
            *self.pings.lock().unwrap_or_else(PoisonError::into_inner) = Some(pings);
        }
        Ok(())
    }

    async fn after_stop(&self, bus: &Bus) -> Result<()> {
        if let Some(pings) = self.pings.lock().unwrap_or_else(PoisonError::into_inner).take() {
            pings.abort();
        }
        if !self.told.swap(false, Ordering::Relaxed) {
            // `worker_started` was not fired either.
            return Ok(());
        }
        let mut fields = Arguments::new();
        put(&mut fields, "process_name", bus.process_name())?;
        put(&mut fields, "service_name", bus.service_name())?;
        send(bus, API, &[message(bus, &Name::from(API), "worker_stopped", fields)]).await
    }
}

/// The settings that the events of a live process report.
#[derive(Clone, Copy)]
struct Alive {
    ping_interval: Option<Duration>,
    metrics_enabled: bool,
}

impl Alive {
    async fn fire(self, bus: &Bus, event: &'static str) -> Result<()> {
        let (apis, listening): (BTreeSet<Name>, BTreeSet<String>) = bus.inner().takes();
        let mut fields = Arguments::new();
        put(&mut fields, "process_name", bus.process_name())?;
        put(&mut fields, "service_name", bus.service_name())?;
        put(&mut fields, "metrics_enabled", &self.metrics_enabled)?;
        put(&mut fields, "api_names", &apis.iter().map(|api| &**api).collect::<Vec<_>>())?;
        put(&mut fields, "listening_for", &listening)?;
        put(&mut fields, "timestamp", &timestamp())?;
        put(&mut fields, "ping_enabled", &self.ping_interval.is_some())?;
        let interval = self.ping_interval.unwrap_or(Duration::from_secs(60)).as_secs_f64();
        match interval.fract() == 0.0 {
            // An integer where possible, as in Python.
            true => put(&mut fields, "ping_interval", &(interval as u64))?,
            false => put(&mut fields, "ping_interval", &interval)?,
        }
        put(&mut fields, "hostname", &config::hostname())?;
        put(&mut fields, "pid", &std::process::id())?;
        put(&mut fields, "max_memory_use", &peak_memory())?;
        send(bus, API, &[message(bus, &Name::from(API), event, fields)]).await
    }
}

/// Returns the peak memory use of the process in KiB, or 0 where the system does not provide it.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}
