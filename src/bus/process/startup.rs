//! The summary shown at startup.

use std::fmt::Write;

use crate::bus::shared::{Bus, Features};

impl Bus {
    /// Describes for people what this process serves, listens to and is connected with.
    /// [`run`](Self::run) prints it at startup.
    #[must_use]
    pub fn summary(&self) -> String {
        let inner = self.inner();
        let mut text = format!(
            "lightbus {}   service {}   process {}   config {}\n",
            env!("CARGO_PKG_VERSION"),
            inner.names.service,
            inner.names.process,
            inner.config.origin(),
        );
        let (mut served, listeners, mut registered, tasks): (Vec<_>, Vec<_>, Vec<_>, Vec<_>) = {
            let state = inner.state();
            (
                state.served.iter().cloned().collect(),
                state.listeners.clone(),
                state
                    .registered
                    .keys()
                    .filter(|api| !state.served.contains(*api))
                    .cloned()
                    .collect(),
                state.tasks.values().cloned().collect(),
            )
        };
        served.sort_unstable();
        registered.sort_unstable();
        for api in served {
            let entry = inner.apis.entry(&api);
            let timeout = entry.config.rpc_timeout;
            let _ = writeln!(
                text,
                "  serves   {api}   rpc {} {} · at most once, expires after {timeout:?}",
                entry.rpc.name(),
                entry.rpc.broker(),
            );
            let _ = writeln!(
                text,
                "           events {} {} · {}",
                entry.event.name(),
                entry.event.broker(),
                entry.event.capabilities()
            );
        }
        for api in registered {
            let entry = inner.apis.entry(&api);
            let _ = writeln!(
                text,
                "  fires    {api}   events {} {}",
                entry.event.name(),
                entry.event.broker()
            );
        }
        for listener in listeners {
            let _ = writeln!(text, "  listens  {}", listener.describe());
        }
        for task in tasks {
            let _ = writeln!(text, "  does     {task}");
        }
        if !inner.plugins.is_empty() {
            let _ = writeln!(text, "  plugins  {}", inner.plugins.names().join(", "));
        }
        if inner.features != Features::default() {
            let _ = writeln!(text, "  features {}", inner.features);
        }
        let remote = inner.schema.apis();
        let _ = write!(
            text,
            "  schema   published, expires after {:?} · APIs on the bus: {}",
            inner.schema.ttl(),
            if remote.is_empty() { "none".to_owned() } else { remote.join(", ") },
        );
        text
    }
}
