//! The most that the client gives, still with the protocol's commands.
//!
//! All calls of the process share a return queue and a connection; what is called while a batch
//! is under way goes out together as the next, and results come back in batches, handed out by
//! the call's id. The server pops, checks and answers in batches.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::stream::{FuturesUnordered, StreamExt};
use redis::aio::MultiplexedConnection;
use redis::{Cmd, Pipeline, Value, cmd};
use tokio::sync::{mpsc, oneshot};

use super::frame::{self, Call, CallId, Ids};
use super::{EXPIRY_SECONDS, QUEUE, RESULT_TTL_SECONDS};
use crate::suite::Site;
use crate::{Broker, Caller, Load, Outcome, Peer, Result, closed_loop, payload, peer};

/// The most calls or results in a batch.
const BATCH: usize = 256;

/// The most batches of calls under way.
const BATCHES_UNDER_WAY: usize = 2;

pub(crate) async fn measure(
    site: &Site,
    peer: &Peer,
    callers: usize,
    load: Load,
) -> Result<Outcome> {
    let client = Arc::new(Client::start(site).await?);
    let payload: Arc<[u8]> = payload::text(site.bytes).into_bytes().into();
    let callers = (0..callers)
        .map(|_| BatchCaller { client: client.clone(), payload: payload.clone() })
        .collect();
    let outcome = closed_loop(callers, load, site.processes(Some(peer))).await;
    site.broker.delete(&[site.key(QUEUE), client.return_key.clone()]).await?;
    outcome
}

struct BatchCaller {
    client: Arc<Client>,
    payload: Arc<[u8]>,
}

impl Caller for BatchCaller {
    async fn call(&mut self) -> Result<u64> {
        let result = self.client.call(&self.payload).await?;
        frame::parse_result(&result, self.payload.len())?;
        Ok(1)
    }
}

/// What all callers share.
struct Client {
    ids: Ids,
    return_key: String,
    outgoing: mpsc::UnboundedSender<Outgoing>,
    pending: Arc<Pending>,
}

/// A call to be written.
struct Outgoing {
    id: CallId,
    frame: Vec<u8>,
}

impl Client {
    async fn start(site: &Site) -> Result<Self> {
        let (outgoing, calls) = mpsc::unbounded_channel();
        let return_key = site.key("results");
        let pending = Arc::new(Pending::default());
        let popper = Popper::new(&site.broker, return_key.clone(), End::Right).await?;
        let connection = site.broker.connect().await?;
        let queue = site.key(QUEUE);
        let waiting = pending.clone();
        tokio::spawn(async move {
            let Err(error) = write_calls(calls, connection, &queue).await else {
                return;
            };
            eprintln!("writing calls: {error}");
        });
        tokio::spawn(async move {
            let Err(error) = hand_out_results(popper, &waiting).await else {
                return;
            };
            eprintln!("reading results: {error}");
        });
        Ok(Self { ids: Ids::new(), return_key, outgoing, pending })
    }

    async fn call(&self, payload: &[u8]) -> Result<Vec<u8>> {
        let id = self.ids.next();
        let frame = frame::call(id, &self.return_key, payload)?;
        let result = self.pending.add(id);
        self.outgoing.send(Outgoing { id, frame }).map_err(|_| "calls are not written any more")?;
        Ok(result.await?)
    }
}

/// The calls that wait for a result.
#[derive(Default)]
struct Pending(Mutex<HashMap<u64, oneshot::Sender<Vec<u8>>>>);

impl Pending {
    fn add(&self, id: CallId) -> oneshot::Receiver<Vec<u8>> {
        let (sender, receiver) = oneshot::channel();
        self.lock().insert(id.number(), sender);
        receiver
    }

    fn hand_out(
        &self,
        results: Vec<Vec<u8>>,
        senders: &mut Vec<(oneshot::Sender<Vec<u8>>, Vec<u8>)>,
    ) -> Result<()> {
        let mut waiting = self.lock();
        for result in results {
            if let Some(sender) = waiting.remove(&frame::result_id(&result)?.number()) {
                senders.push((sender, result));
            }
        }
        // Waking callers with the lock held would have them wait for it.
        drop(waiting);
        for (sender, result) in senders.drain(..) {
            // A caller that has gone does not want its result.
            let _ = sender.send(result);
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, oneshot::Sender<Vec<u8>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Collects calls and writes them, a batch in a pipeline.
async fn write_calls(
    mut calls: mpsc::UnboundedReceiver<Outgoing>,
    connection: MultiplexedConnection,
    queue: &str,
) -> Result<()> {
    let mut batch = Vec::with_capacity(BATCH);
    let mut under_way = FuturesUnordered::new();
    loop {
        tokio::select! {
            biased;
            Some(written) = under_way.next(), if !under_way.is_empty() => { let _: Value = written?; }
            count = calls.recv_many(&mut batch, BATCH), if under_way.len() < BATCHES_UNDER_WAY => {
                if count == 0 {
                    return Ok(());
                }
                let pipeline = pushes(queue, batch.drain(..));
                let mut connection = connection.clone();
                under_way.push(async move { pipeline.query_async(&mut connection).await });
            }
        }
    }
}

/// The expiry keys, then all calls in one `RPUSH`: a call must not arrive before its key.
fn pushes(queue: &str, calls: impl ExactSizeIterator<Item = Outgoing>) -> Pipeline {
    let mut pipeline = Pipeline::with_capacity(calls.len() + 1);
    let mut push = cmd("RPUSH");
    push.arg(queue);
    for Outgoing { id, frame } in calls {
        pipeline.cmd("SET").arg(id.expiry_key()).arg(1).arg("EX").arg(EXPIRY_SECONDS);
        push.arg(frame);
    }
    pipeline.add_command(push);
    pipeline
}

async fn hand_out_results(mut popper: Popper, pending: &Pending) -> Result<()> {
    let mut senders = Vec::with_capacity(BATCH);
    loop {
        let results = popper.pop().await?;
        pending.hand_out(results, &mut senders)?;
    }
}

pub(crate) async fn serve(site: &Site) -> Result<()> {
    let mut popper = Popper::new(&site.broker, site.key(QUEUE), End::Left).await?;
    let mut connection = site.broker.connect().await?;
    peer::ready();
    let mut calls = popper.pop().await?;
    loop {
        // The next batch is asked for before this one is answered.
        let (answered, next) = tokio::join!(answer(&mut connection, &calls), popper.pop());
        answered?;
        calls = next?;
    }
}

/// Answers those of the calls that are still waited for.
async fn answer(connection: &mut MultiplexedConnection, frames: &[Vec<u8>]) -> Result<()> {
    let calls = frames.iter().map(|frame| Call::parse(frame)).collect::<Result<Vec<_>>>()?;
    if calls.is_empty() {
        return Ok(());
    }
    let waited_for = take_expiry_keys(connection, &calls).await?;
    let calls =
        calls.iter().zip(waited_for).filter_map(|(call, waited_for)| waited_for.then_some(call));
    let answers = answers(calls);
    if !answers.is_empty() {
        let _: Value = answers.query_async(connection).await?;
    }
    Ok(())
}

/// Which calls are still waited for; all their keys are gone afterwards.
async fn take_expiry_keys(
    connection: &mut MultiplexedConnection,
    calls: &[Call<'_>],
) -> Result<Vec<bool>> {
    let (mut get, mut del) = (cmd("MGET"), cmd("DEL"));
    for call in calls {
        let key = call.id.expiry_key();
        get.arg(&key);
        del.arg(&key);
    }
    let mut pipeline = Pipeline::with_capacity(2);
    pipeline.add_command(get).add_command(del);
    let (found, _): (Vec<Value>, Value) = pipeline.query_async(connection).await?;
    Ok(found.into_iter().map(|value| value != Value::Nil).collect())
}

/// The results: one `LPUSH` and one `EXPIRE` for each return key.
fn answers<'a>(calls: impl Iterator<Item = &'a Call<'a>>) -> Pipeline {
    let mut pushes: Vec<(&[u8], Cmd)> = Vec::new();
    for call in calls {
        let result = frame::result(call);
        // A batch has few return keys, mostly one.
        match pushes.iter_mut().find(|(key, _)| *key == call.return_key) {
            Some((_, push)) => {
                push.arg(result);
            }
            None => {
                let mut push = cmd("LPUSH");
                push.arg(call.return_key).arg(result);
                pushes.push((call.return_key, push));
            }
        }
    }
    let mut pipeline = Pipeline::with_capacity(2 * pushes.len());
    for (key, push) in pushes {
        pipeline.add_command(push).cmd("EXPIRE").arg(key).arg(RESULT_TTL_SECONDS);
    }
    pipeline
}

/// The end of a list to pop from.
#[derive(Clone, Copy)]
enum End {
    Left,
    Right,
}

/// Pops what a list has, a batch at a time.
struct Popper {
    connection: MultiplexedConnection,
    commands: PopCommands,
}

enum PopCommands {
    /// Redis 7 waits for a batch.
    Batch(Cmd),
    /// Before, one is waited for, and the others there are come with a second command.
    OneThenMore(Cmd, Cmd),
}

impl Popper {
    async fn new(broker: &Broker, key: String, end: End) -> Result<Self> {
        let connection = broker.connect_blocking().await?;
        Ok(Self { connection, commands: PopCommands::new(broker.pops_batches(), &key, end) })
    }

    /// The next batch; empty if nothing came for a while.
    async fn pop(&mut self) -> Result<Vec<Vec<u8>>> {
        match &self.commands {
            PopCommands::Batch(pop) => {
                let popped: Value = pop.query_async(&mut self.connection).await?;
                values(popped)
            }
            PopCommands::OneThenMore(wait, more) => {
                let first: Value = wait.query_async(&mut self.connection).await?;
                let Value::Array(mut first) = first else {
                    return Ok(Vec::new());
                };
                let more: Value = more.query_async(&mut self.connection).await?;
                let mut popped: Vec<_> = first.pop().into_iter().collect();
                if let Value::Array(more) = more {
                    popped.extend(more);
                }
                popped.into_iter().map(bytes).collect()
            }
        }
    }
}

impl PopCommands {
    fn new(batches: bool, key: &str, end: End) -> Self {
        const WAIT_SECONDS: u64 = 1;
        let (side, wait_for_one, pop_many) = match end {
            End::Left => ("LEFT", "BLPOP", "LPOP"),
            End::Right => ("RIGHT", "BRPOP", "RPOP"),
        };
        if batches {
            let mut pop = cmd("BLMPOP");
            pop.arg(WAIT_SECONDS).arg(1).arg(key).arg(side).arg("COUNT").arg(BATCH);
            return Self::Batch(pop);
        }
        let (mut wait, mut more) = (cmd(wait_for_one), cmd(pop_many));
        wait.arg(key).arg(WAIT_SECONDS);
        more.arg(key).arg(BATCH - 1);
        Self::OneThenMore(wait, more)
    }
}

/// The values in an answer to `BLMPOP`: nil, or the key and the values.
fn values(popped: Value) -> Result<Vec<Vec<u8>>> {
    let Value::Array(mut key_and_values) = popped else {
        return Ok(Vec::new());
    };
    match key_and_values.pop() {
        Some(Value::Array(values)) => values.into_iter().map(bytes).collect(),
        other => Err(format!("not the values of a list: {other:?}").into()),
    }
}

fn bytes(value: Value) -> Result<Vec<u8>> {
    match value {
        Value::BulkString(bytes) => Ok(bytes),
        other => Err(format!("not bytes: {other:?}").into()),
    }
}
