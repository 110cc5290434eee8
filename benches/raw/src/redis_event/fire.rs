//! Firing: `XADD` by `XADD`, those in flight sharing a connection.
//!
//! The callers are in one task: it gives twice what a task for each gives at 256 in flight.

use redis::Value;
use redis::aio::MultiplexedConnection;

use super::{STREAM, xadd};
use crate::suite::Site;
use crate::{Caller, Load, Outcome, Result, closed_loop_in_one_task, payload};

struct Firer {
    connection: MultiplexedConnection,
    stream: String,
    payload: Vec<u8>,
}

impl Caller for Firer {
    async fn call(&mut self) -> Result<u64> {
        let _: Value =
            xadd(&self.stream, ":payload", &self.payload).query_async(&mut self.connection).await?;
        Ok(1)
    }
}

pub(crate) async fn measure(site: &Site, callers: usize, load: Load) -> Result<Outcome> {
    let connection = site.broker.connect().await?;
    let firer = || Firer {
        connection: connection.clone(),
        stream: site.key(STREAM),
        payload: payload::text(site.bytes).into_bytes(),
    };
    let firers = std::iter::repeat_with(firer).take(callers).collect();
    let outcome = closed_loop_in_one_task(firers, load, site.processes(None)).await;
    site.broker.delete(&[site.key(STREAM)]).await?;
    outcome
}
