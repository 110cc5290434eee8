//! The protocol taken literally: each call has a connection of its own to wait on, and the server
//! takes one call at a time.

use std::sync::Arc;

use redis::aio::MultiplexedConnection;
use redis::{Value, cmd, pipe};

use super::frame::{self, Call, Ids};
use super::{EXPIRY_SECONDS, QUEUE, RESULT_TTL_SECONDS};
use crate::suite::Site;
use crate::{Caller, Load, Outcome, Peer, Result, closed_loop, payload, peer};

struct NaiveCaller {
    connection: MultiplexedConnection,
    queue: String,
    results: String,
    ids: Arc<Ids>,
    payload: Vec<u8>,
}

impl Caller for NaiveCaller {
    async fn call(&mut self) -> Result<u64> {
        let id = self.ids.next();
        let result_key = format!("{}:{}", self.results, id.number());
        let call = frame::call(id, &result_key, &self.payload)?;
        // The expiry key first: a server that finds none takes the call for expired.
        let _: Value = pipe()
            .cmd("SET")
            .arg(id.expiry_key())
            .arg(1)
            .arg("EX")
            .arg(EXPIRY_SECONDS)
            .cmd("RPUSH")
            .arg(&self.queue)
            .arg(call)
            .query_async(&mut self.connection)
            .await?;
        let popped: Option<(Value, Vec<u8>)> = cmd("BLPOP")
            .arg(result_key)
            .arg(EXPIRY_SECONDS)
            .query_async(&mut self.connection)
            .await?;
        let (_, result) = popped.ok_or("a call without an answer")?;
        if frame::parse_result(&result, self.payload.len())? != id {
            return Err("the answer to another call".into());
        }
        Ok(1)
    }
}

pub(crate) async fn measure(
    site: &Site,
    peer: &Peer,
    callers: usize,
    load: Load,
) -> Result<Outcome> {
    let ids = Arc::new(Ids::new());
    let mut all = Vec::with_capacity(callers);
    for _ in 0..callers {
        all.push(NaiveCaller {
            connection: site.broker.connect_blocking().await?,
            queue: site.key(QUEUE),
            results: site.key("result"),
            ids: ids.clone(),
            payload: payload::text(site.bytes).into_bytes(),
        });
    }
    let outcome = closed_loop(all, load, site.processes(Some(peer))).await;
    site.broker.delete(&[site.key(QUEUE)]).await?;
    outcome
}

pub(crate) async fn serve(site: &Site) -> Result<()> {
    let mut popping = site.broker.connect_blocking().await?;
    let mut answering = site.broker.connect().await?;
    let queue = site.key(QUEUE);
    peer::ready();
    loop {
        let popped: Option<(Value, Vec<u8>)> =
            cmd("BLPOP").arg(&queue).arg(1).query_async(&mut popping).await?;
        if let Some((_, frame)) = popped {
            answer(&mut answering, &Call::parse(&frame)?).await?;
        }
    }
}

async fn answer(connection: &mut MultiplexedConnection, call: &Call<'_>) -> Result<()> {
    let waited_for: bool = cmd("DEL").arg(call.id.expiry_key()).query_async(connection).await?;
    if waited_for {
        let _: Value = pipe()
            .cmd("LPUSH")
            .arg(call.return_key)
            .arg(frame::result(call))
            .cmd("EXPIRE")
            .arg(call.return_key)
            .arg(RESULT_TTL_SECONDS)
            .query_async(connection)
            .await?;
    }
    Ok(())
}
