//! Removes expired calls from their queues.
//!
//! A call whose caller has given up stays in its queue until a worker takes it: without a worker for ever.
//! A worker that comes then has all of them before the first live one. So whoever notices removes them
//! from the head of the queue: callers, to whom Redis tells the length of the queue with each call, and
//! workers that took only expired ones.
//!
//! The calls at the head are read, not taken, and those without an expiry key are cut off up to the first
//! that has one. A script cuts only if the first and the last of them are still where they were: a worker may
//! have taken some meanwhile. Python sets the key of a call after the call itself, so the newest ones
//! are left alone. What else is at the head, a call that cannot be read or one with a longer time
//! limit, stays, and what is behind it: workers drop it as ever. Held by tests/transport/expired.rs.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use lightbus_core::{Name, Result, time::after};
use redis::{Pipeline, Value};
use tokio::{task::JoinSet, time::Instant};

use super::{codec, expiry::of_expiry_keys, queue_key};
use crate::{
    client::Client,
    error::{Sent, from_redis},
    link, value,
};

/// Cuts off the head of a queue, if it is what was read.
const CUT: &str = "\
if redis.call('LINDEX', KEYS[1], 0) ~= ARGV[1] then return 0 end
if redis.call('LINDEX', KEYS[1], ARGV[3] - 1) ~= ARGV[2] then return 0 end
redis.call('LTRIM', KEYS[1], ARGV[3], -1)
return 1";

/// A queue that is no longer is not looked at by callers.
const SHORT: i64 = 256;
/// How many of the newest calls are left alone.
const NEWEST: i64 = 32;
/// How many calls are looked at first, and then at most, and about how many bytes.
const FIRST_PAGE: usize = 16;
const PAGE: usize = 1000;
const PAGE_BYTES: usize = 4 << 20;
/// The most pages without a pause.
const PAGES: usize = 100;
/// The wait before a caller looks at a queue again, and if the server refused: the user may have no right to it.
const PAUSE: Duration = Duration::from_secs(1);
const REFUSED: Duration = Duration::from_secs(60);

/// Removes expired calls from the head of a queue, and returns how many.
pub(super) async fn prune(client: &Client, queue: &str) -> Result<usize> {
    let (mut removed, mut page) = (0, FIRST_PAGE);
    for _ in 0..PAGES {
        let head = head(client, queue, page).await?;
        let bytes: usize = head.iter().map(Vec::len).sum();
        let expired = expired(client, &head).await?;
        let Some(((first, last), count)) =
            head.first().zip(expired.last()).zip(Some(expired.len()))
        else {
            break;
        };
        let mut cut = redis::cmd("EVAL");
        cut.arg(CUT).arg(1).arg(queue).arg(&first[..]).arg(&last[..]).arg(count);
        if value::int(&client.command(&cut, Sent::Harmless).await?) != Some(1) {
            // Another process was faster: the head is another one now.
            continue;
        }
        removed += count;
        if count < page {
            break;
        }
        let fitting = PAGE_BYTES / (bytes / count).max(1);
        page = (page * 8).min(PAGE).min(fitting).max(1);
    }
    if removed > 0 {
        tracing::debug!(queue, removed, "expired calls were removed from a queue");
    }
    Ok(removed)
}

/// Reads the calls at the head of a queue, without its newest.
async fn head(client: &Client, queue: &str, most: usize) -> Result<Vec<Vec<u8>>> {
    let mut look = Pipeline::with_capacity(2);
    look.cmd("LLEN").arg(queue);
    look.cmd("LRANGE").arg(queue).arg(0).arg(most - 1);
    let mut answers = client.pipeline(&look, Sent::Harmless).await?.into_iter().map(link::answer);
    let explain = |error| from_redis(error, client.broker(), Sent::Harmless);
    let length = answers.next().transpose().map_err(explain)?.as_ref().and_then(value::int);
    let calls = answers.next().transpose().map_err(explain)?.unwrap_or(Value::Nil);
    let mut calls = value::list_of_bytes(calls).unwrap_or_default();
    calls.truncate(usize::try_from(length.unwrap_or(0) - NEWEST).unwrap_or(0));
    Ok(calls)
}

/// Returns the first of these calls, up to one that has not expired or cannot be read.
async fn expired<'a>(client: &Client, calls: &'a [Vec<u8>]) -> Result<&'a [Vec<u8>]> {
    let ids: Vec<Name> = calls.iter().map_while(|call| codec::call_id(call)).collect();
    if ids.is_empty() {
        return Ok(&[]);
    }
    let alive = if client.is_cluster() {
        let mut look = Pipeline::with_capacity(ids.len());
        for id in &ids {
            look.add_command(of_expiry_keys("EXISTS", [id].into_iter()));
        }
        let answers = client.pipeline(&look, Sent::Harmless).await?;
        answers.iter().position(|answer| value::int(answer) != Some(0))
    } else {
        let keys = client.command(&of_expiry_keys("MGET", ids.iter()), Sent::Harmless).await?;
        let keys = value::items(keys).unwrap_or_default();
        keys.iter().position(|key| *key != Value::Nil).or(Some(keys.len()))
    };
    Ok(&calls[..alive.unwrap_or(ids.len()).min(ids.len())])
}

/// Removes expired calls from the queues to which a process sends, beside its calls.
pub(super) struct Pruner {
    client: Arc<Client>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// When to look at a queue again, by its API.
    next: HashMap<Name, Arc<Mutex<Instant>>>,
    /// Aborted when this is dropped.
    tasks: JoinSet<()>,
}

impl Pruner {
    pub(super) fn new(client: Arc<Client>) -> Self {
        Self { client, state: Mutex::default() }
    }

    /// Notes how long the queue of an API is, and looks at it in a task of its own if it is long.
    pub(super) fn noticed(&self, api: &str, length: i64) {
        if length <= SHORT {
            return;
        }
        // Nothing panics while it is locked.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        while state.tasks.try_join_next().is_some() {}
        let now = Instant::now();
        let next = match state.next.get(api) {
            Some(next) => Arc::clone(next),
            None => {
                let next = Arc::new(Mutex::new(now));
                state.next.insert(Name::from(api), Arc::clone(&next));
                next
            }
        };
        {
            let mut due = next.lock().unwrap_or_else(PoisonError::into_inner);
            if *due > now {
                return;
            }
            // Until the task says otherwise.
            *due = after(now, REFUSED);
        }
        let (client, queue) = (Arc::clone(&self.client), queue_key(api));
        state.tasks.spawn(async move {
            let wait = match prune(&client, &queue).await {
                Ok(_) => PAUSE,
                Err(error) => {
                    tracing::debug!(%error, queue, "expired calls could not be removed");
                    REFUSED
                }
            };
            *next.lock().unwrap_or_else(PoisonError::into_inner) = after(Instant::now(), wait);
        });
    }
}
