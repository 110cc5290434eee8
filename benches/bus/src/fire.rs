//! Firing: each caller waits until the broker has its event.

use lightbus::Bus;
use lightbus_bench_raw::{
    Caller, Load, Outcome, Result, closed_loop, closed_loop_in_one_task, payload,
};

use crate::contract::{BenchClient, Changed};
use crate::suite::Site;

/// How the callers run.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Tasks {
    /// Each in a task of its own, as in most programs.
    Each,
    /// All in one task, as the raw measurement has them.
    One,
}

pub(crate) async fn measure(
    site: &Site,
    tasks: Tasks,
    callers: usize,
    load: Load,
) -> Result<Outcome> {
    let bus = site.bus().await?;
    bus.register(BenchClient::contract()).await?;
    let listening = format!("{}-listener", site.service);
    if site.keeps_only_for_listeners() {
        // One that goes away: its queue is there, as that of the raw measurement.
        let listener = site.bus_of(&listening).await?;
        listener.listen("listener", |_: Changed| async { Ok(()) }).await?;
        listener.close().await?;
    }
    let firer = || Firer { bus: bus.clone(), payload: payload::text(site.bytes) };
    let firers = std::iter::repeat_with(firer).take(callers).collect();
    let processes = site.beneath.processes(None);
    let outcome = match tasks {
        Tasks::Each => closed_loop(firers, load, processes).await?,
        Tasks::One => closed_loop_in_one_task(firers, load, processes).await?,
    };
    bus.close().await?;
    if site.keeps_only_for_listeners() {
        site.forget(&listening, "listener").await?;
    }
    Ok(outcome)
}

struct Firer {
    bus: Bus,
    payload: String,
}

impl Caller for Firer {
    async fn call(&mut self) -> Result<u64> {
        self.bus.fire(Changed { payload: self.payload.clone() }).await?;
        Ok(1)
    }
}
