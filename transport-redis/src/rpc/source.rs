//! Takes calls from their queues.
//!
//! A call runs at most once: popping it removes it from its queue, and deleting its expiry key decides
//! who may run it. A call without the key has expired, or was taken by another worker, and is dropped.
//! What the key had left to live is the call's deadline, read in the round trip that deletes it.
//! Calls that were popped and not started go back to the head of their queues, each with a new key.

use std::{
    collections::{HashSet, VecDeque},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use lightbus_core::{
    Closing, Name, Outcome, RemoteError, Result, ResultMessage, RpcMessage, Source, json,
};
use redis::{Pipeline, Value};
use tokio::time::Instant;

use super::{
    WHAT,
    codec::{self, DecodedCall},
    expiry::{Left, milliseconds_until, of_expiry_keys, set_expiry},
    prune, queue_key,
};
use crate::{
    RpcConfig,
    client::Client,
    error::{Sent, from_redis, odd_answer},
    link::{self, Link},
    reader::{BLOCK, Reader},
    result, value,
};

/// How long Redis keeps the answer to a call that cannot be read, in seconds.
const ANSWER_TTL: u32 = 60;

/// Takes calls.
pub(super) struct CallSource {
    reader: Reader,
    apis: Vec<Name>,
    /// The queue of each.
    queues: Vec<String>,
    /// The queue that is first in the next read, so that a busy one does not starve the others.
    first: AtomicUsize,
    /// The time limit of a call that carries none, and whose key has none.
    usual_timeout: Duration,
    /// Popped and not checked yet. They survive the loss of a connection.
    popped: Mutex<VecDeque<Raw>>,
    expired: AtomicU64,
    malformed: AtomicU64,
}

struct Raw {
    queue: usize,
    message: Bytes,
}

/// What putting back an unseen call needs.
#[derive(Clone)]
pub(super) struct CallToken {
    queue: usize,
    id: Name,
    message: Bytes,
    deadline: Instant,
}

/// What the expiry keys of a batch had left.
struct Taken {
    left: Vec<Left>,
    /// Whether a call may be in the batch twice: fewer keys were deleted than found.
    twice: bool,
}

impl CallSource {
    pub(super) fn new(
        client: &Arc<Client>,
        closing: &Arc<Closing>,
        apis: &[Name],
        config: &RpcConfig,
    ) -> Self {
        Self {
            reader: Reader::new(
                Arc::clone(client),
                Arc::clone(closing),
                &apis.first().map(|api| queue_key(api)).unwrap_or_default(),
            ),
            apis: apis.to_vec(),
            queues: apis.iter().map(|api| queue_key(api)).collect(),
            first: AtomicUsize::new(0),
            usual_timeout: config.rpc_timeout.0,
            popped: Mutex::new(VecDeque::new()),
            expired: AtomicU64::new(0),
            malformed: AtomicU64::new(0),
        }
    }

    /// Connects now, so that serving fails if the broker is unreachable.
    pub(super) async fn connect(&self) -> Result<()> {
        let (link, _) = self.reader.take().await?;
        self.reader.give_back(link);
        Ok(())
    }

    fn popped(&self) -> std::sync::MutexGuard<'_, VecDeque<Raw>> {
        self.popped.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for calls in any queue, and pops those of one.
    async fn pop(&self, link: &Link, max: usize) -> Result<()> {
        let count = self.queues.len();
        let first = self.first.fetch_add(1, Ordering::Relaxed) % count;
        let keys = (0..count).map(|offset| &self.queues[(first + offset) % count]);
        if link.server.has_blmpop {
            let mut pop = redis::cmd("BLMPOP");
            pop.arg(BLOCK.as_secs_f64()).arg(count);
            for key in keys {
                pop.arg(key);
            }
            pop.arg("LEFT").arg("COUNT").arg(max);
            let Some(answer) = self.read("BLMPOP", link, &pop).await? else { return Ok(()) };
            let Some(Ok([key, messages])) = value::items(answer).map(<[Value; 2]>::try_from) else {
                return Ok(());
            };
            return self.keep(&key, value::list_of_bytes(messages).unwrap_or_default());
        }
        let mut pop = redis::cmd("BLPOP");
        for key in keys {
            pop.arg(key);
        }
        pop.arg(BLOCK.as_secs_f64());
        let Some(answer) = self.read("BLPOP", link, &pop).await? else { return Ok(()) };
        let Some(Ok([key, message])) = value::items(answer).map(<[Value; 2]>::try_from) else {
            return Ok(());
        };
        self.keep(&key, value::bytes(message).into_iter().collect())?;
        if max > 1
            && let Some(name) = value::text(&key)
        {
            let mut more = redis::cmd("LPOP");
            more.arg(name).arg(max - 1);
            let more = self.reader.request(link, link.command(&more)).await?;
            self.keep(&key, value::list_of_bytes(more).unwrap_or_default())?;
        }
        Ok(())
    }

    async fn read(
        &self,
        name: &'static str,
        link: &Link,
        pop: &redis::Cmd,
    ) -> Result<Option<Value>> {
        match self.reader.blocking(link, link.command(pop)).await? {
            None | Some(Ok(Value::Nil)) => Ok(None),
            Some(Ok(answer @ Value::Array(_))) => Ok(Some(answer)),
            Some(Ok(answer)) => Err(odd_answer(name, &answer)),
            Some(Err(error)) if error.code() == Some("UNBLOCKED") => Ok(None),
            Some(Err(error)) => {
                Err(from_redis(error, self.reader.client().broker(), Sent::Harmless))
            }
        }
    }

    /// Sends commands whose keys may live on other servers than the queue.
    async fn run(&self, link: &Link, pipeline: &Pipeline) -> Result<Vec<Value>> {
        let client = self.reader.client();
        if client.is_cluster() {
            client.pipeline(pipeline, Sent::Harmless).await
        } else {
            self.reader.request(link, link.pipeline(pipeline)).await
        }
    }

    fn keep(&self, key: &Value, messages: Vec<Vec<u8>>) -> Result<()> {
        let queue =
            value::text(key).and_then(|key| self.queues.iter().position(|name| name == key));
        let Some(queue) = queue else { return Err(odd_answer("a pop", key)) };
        self.popped()
            .extend(messages.into_iter().map(|message| Raw { queue, message: message.into() }));
        Ok(())
    }

    /// Decodes what was popped, and drops calls that have expired.
    async fn check(&self, link: &Link, max: usize) -> Result<Vec<(Arc<RpcMessage>, CallToken)>> {
        let batch: Vec<Raw> = {
            let mut popped = self.popped();
            let count = popped.len().min(max);
            popped.drain(..count).collect()
        };
        let Some(queue) = batch.first().map(|raw| raw.queue) else { return Ok(Vec::new()) };
        let mut calls: Vec<(DecodedCall, Raw)> = Vec::with_capacity(batch.len());
        let mut unreadable = Vec::new();
        for raw in batch {
            let api = &self.apis[raw.queue];
            let read = codec::decode_call(&raw.message).and_then(|call| {
                RpcMessage::check_api(&call.api, api)?;
                Ok(call)
            });
            match read {
                Ok(call) => calls.push((call, raw)),
                Err(error) => unreadable.push((raw, error)),
            }
        }
        if !unreadable.is_empty() {
            self.answer_malformed(link, unreadable).await;
        }
        if calls.is_empty() {
            return Ok(Vec::new());
        }
        // Before, so that a slow answer makes deadlines earlier rather than later.
        let asked = Instant::now();
        let Taken { left, twice } = match self.take_expiry_keys(link, &calls).await {
            Ok(taken) => taken,
            Err(error) => {
                // Checked again on the next connection. If the keys were deleted on this one, the calls
                // count as expired: they never run twice.
                let mut popped = self.popped();
                for (_, raw) in calls.into_iter().rev() {
                    popped.push_front(raw);
                }
                return Err(error);
            }
        };
        let now = Instant::now();
        let mut fetched = Vec::with_capacity(calls.len());
        let mut dropped = 0;
        let mut seen = HashSet::new();
        for ((call, raw), left) in calls.into_iter().zip(left) {
            let Left::Alive(left) = left else {
                dropped += 1;
                continue;
            };
            let left = left.or(call.left).unwrap_or(self.usual_timeout);
            let id = Name::clone(&call.id);
            let message = call.into_message(asked, left);
            let deadline = message.deadline;
            if deadline <= now || (twice && !seen.insert(Name::clone(&id))) {
                dropped += 1;
                continue;
            }
            fetched.push((
                Arc::new(message),
                CallToken { queue: raw.queue, id, message: raw.message, deadline },
            ));
        }
        if dropped > 0 && fetched.is_empty() {
            self.prune(queue).await;
        }
        if dropped > 0 {
            let total = self.expired.fetch_add(dropped, Ordering::Relaxed) + dropped;
            tracing::debug!(dropped, total, "calls that have expired were dropped");
        }
        Ok(fetched)
    }

    /// Removes expired calls from the head of a queue, behind some that were: there may be many.
    async fn prune(&self, queue: usize) {
        let queue = &self.queues[queue];
        // Boxed: it is rare, and would be part of every fetch's future.
        match Box::pin(prune::prune(self.reader.client(), queue)).await {
            Ok(0) => {}
            Ok(removed) => {
                let removed = removed as u64;
                let total = self.expired.fetch_add(removed, Ordering::Relaxed) + removed;
                tracing::debug!(
                    dropped = removed,
                    total,
                    queue,
                    "calls that have expired were dropped"
                );
            }
            Err(error) => tracing::debug!(%error, queue, "expired calls could not be removed"),
        }
    }

    /// Deletes the expiry keys, and returns what they had left. No other worker can run the calls then.
    async fn take_expiry_keys(&self, link: &Link, calls: &[(DecodedCall, Raw)]) -> Result<Taken> {
        let count = calls.len();
        let ids = calls.iter().map(|(call, _)| &call.id);
        if self.reader.client().is_cluster() || count == 1 {
            let mut pipeline = Pipeline::with_capacity(count.saturating_mul(2));
            for id in ids {
                pipeline.add_command(of_expiry_keys("PTTL", [id].into_iter()));
                pipeline.add_command(of_expiry_keys("DEL", [id].into_iter()));
            }
            let broker = self.reader.client().broker();
            let answers = self.run(link, &pipeline).await?;
            let answers = answers.into_iter().map(|answer| {
                link::answer(answer).map_err(|error| from_redis(error, broker, Sent::Harmless))
            });
            let answers = answers.collect::<Result<Vec<_>>>()?;
            let left = answers.chunks_exact(2).map(|pair| match value::int(&pair[1]) {
                // Deleted here. Python sets the key after the call: it may have come in between.
                Some(1) => match time_left(&pair[0])? {
                    Left::Gone => Ok(Left::Alive(None)),
                    alive => Ok(alive),
                },
                _ => Ok(Left::Gone),
            });
            return Ok(Taken { left: left.collect::<Result<_>>()?, twice: false });
        }
        let mut pipeline = Pipeline::with_capacity(count.saturating_add(1));
        for id in ids.clone() {
            pipeline.add_command(of_expiry_keys("PTTL", [id].into_iter()));
        }
        pipeline.add_command(of_expiry_keys("DEL", ids));
        let mut answers = self.reader.request(link, link.transaction(&mut pipeline)).await?;
        let deleted = answers.pop().as_ref().and_then(value::int);
        let left = answers.iter().map(time_left).collect::<Result<Vec<_>>>()?;
        if left.len() != count {
            return Err(odd_answer("PTTL", &Value::Array(answers)));
        }
        let alive = left.iter().filter(|left| **left != Left::Gone).count();
        Ok(Taken { twice: deleted != i64::try_from(alive).ok(), left })
    }

    /// Logs calls that cannot be read, and answers their callers if id and return path can be.
    async fn answer_malformed(&self, link: &Link, unreadable: Vec<(Raw, lightbus_core::Error)>) {
        let mut answers = Pipeline::new();
        for (raw, error) in unreadable {
            let total = self.malformed.fetch_add(1, Ordering::Relaxed) + 1;
            tracing::warn!(
                %error,
                queue = self.queues[raw.queue],
                message = json::excerpt(&raw.message),
                total,
                "a call cannot be read"
            );
            let Some((id, path)) = codec::salvage_call(&raw.message) else { continue };
            let Some(key) = path.as_str().strip_prefix(result::RETURN_SCHEME) else { continue };
            let result = result::encode_result(&ResultMessage {
                id: format!("{id}:malformed").into(),
                rpc_id: Name::clone(&id),
                headers: lightbus_core::Headers::new(),
                body: Err(RemoteError {
                    message: format!("MalformedCall: {error}"),
                    ..RemoteError::default()
                }),
            });
            answers.add_command(of_expiry_keys("DEL", [&id].into_iter()));
            answers.cmd("LPUSH").arg(key).arg(result);
            answers.cmd("EXPIRE").arg(key).arg(ANSWER_TTL);
        }
        if answers.is_empty() {
            return;
        }
        if let Err(error) = self.run(link, &answers).await {
            tracing::debug!(%error, "the callers of malformed calls could not be answered");
        }
    }

    /// Puts calls back at the head of their queues, in their order.
    async fn put_back(&self, calls: &[&CallToken]) -> Result<()> {
        let now = Instant::now();
        let mut pipeline = Pipeline::new();
        let mut pushes = Pipeline::new();
        for call in calls.iter().rev() {
            // An expired call is not put back.
            let Some(left) = milliseconds_until(call.deadline, now) else { continue };
            pipeline.add_command(set_expiry(&call.id, left));
            pushes.cmd("LPUSH").arg(&self.queues[call.queue]).arg(&*call.message);
        }
        if pushes.is_empty() {
            return Ok(());
        }
        let client = self.reader.client();
        for answer in client.pipeline(&pipeline, Sent::Harmless).await? {
            link::answer(answer)
                .map_err(|error| from_redis(error, client.broker(), Sent::Harmless))?;
        }
        // If it is put back twice, the second one finds no expiry key.
        for answer in client.pipeline(&pushes, Sent::Harmless).await? {
            link::answer(answer)
                .map_err(|error| from_redis(error, client.broker(), Sent::Harmless))?;
        }
        tracing::debug!(calls = calls.len(), "unseen calls were put back");
        Ok(())
    }
}

fn time_left(answer: &Value) -> Result<Left> {
    Left::read(answer).ok_or_else(|| odd_answer("PTTL", answer))
}

#[async_trait]
impl Source for CallSource {
    type Message = RpcMessage;
    type Token = CallToken;

    const REDELIVERS: bool = false;

    async fn fetch(&self, max: usize) -> Result<Vec<(Arc<RpcMessage>, CallToken)>> {
        self.reader.check_open(WHAT)?;
        let (link, _) = self.reader.take().await?;
        if self.popped().is_empty() {
            self.pop(&link, max).await?;
        }
        let calls = self.check(&link, max).await?;
        self.reader.give_back(link);
        Ok(calls)
    }

    async fn settle(&self, settled: &[(CallToken, Outcome)]) -> Result<()> {
        let unseen: Vec<&CallToken> = settled
            .iter()
            .filter(|(_, outcome)| *outcome == Outcome::Retry)
            .map(|(token, _)| token)
            .collect();
        if unseen.is_empty() {
            return Ok(());
        }
        // Boxed: it is rare, and would be part of every settlement's future.
        Box::pin(self.put_back(&unseen)).await
    }

    async fn interrupt(&self) -> bool {
        self.reader.interrupt().await
    }

    async fn close(&self) -> Result<()> {
        // The connection was lost before they were checked: their keys still exist.
        let left: Vec<Raw> = self.popped().drain(..).collect();
        if left.is_empty() {
            return Ok(());
        }
        let mut pushes = Pipeline::new();
        for raw in left.iter().rev() {
            pushes.cmd("LPUSH").arg(&self.queues[raw.queue]).arg(&*raw.message);
        }
        self.reader.client().pipeline(&pushes, Sent::Harmless).await.map(drop)
    }
}
