//! Sends calls to their queues.

use std::sync::Arc;

use lightbus_core::{Error, Name, Result};
use redis::{Cmd, Pipeline, RedisError, Value};
use tokio::time::Instant;

use super::{
    expiry::{milliseconds_until, set_expiry},
    prune::Pruner,
    queue_key,
};
use crate::{
    batcher::BatchSender,
    client::Client,
    error::Sent,
    link::{self, Link},
    value,
};

/// An encoded call.
pub(super) struct Outgoing {
    pub(super) api: Name,
    pub(super) id: Name,
    pub(super) payload: Vec<u8>,
    pub(super) deadline: Instant,
}

/// Sends calls: first their expiry keys, then the calls, so that no worker can find a call without its
/// key.
pub(super) struct CallSender {
    client: Arc<Client>,
    pruner: Pruner,
}

impl CallSender {
    pub(super) fn new(client: Arc<Client>) -> Self {
        Self { pruner: Pruner::new(Arc::clone(&client)), client }
    }

    /// Sends one `SET` for each call, then one `RPUSH` for each queue. Returns one answer for each call.
    async fn push(&self, link: &Arc<Link>, calls: &[Arc<Outgoing>]) -> Vec<Result<()>> {
        let now = Instant::now();
        let mut answers: Vec<Result<()>> = Vec::with_capacity(calls.len());
        let mut pipeline = Pipeline::with_capacity(calls.len() + 1);
        for call in calls {
            match milliseconds_until(call.deadline, now) {
                Some(left) => {
                    pipeline.add_command(set_expiry(&call.id, left));
                    answers.push(Ok(()));
                }
                None => answers.push(Err(Error::too_late())),
            }
        }
        // The queues, and which calls go to each. Mostly one.
        let mut queues: Vec<(&str, Cmd, Vec<usize>)> = Vec::new();
        for (index, call) in calls.iter().enumerate().filter(|(index, _)| answers[*index].is_ok()) {
            match queues.iter_mut().find(|(api, ..)| *api == &*call.api) {
                Some((_, push, members)) => {
                    push.arg(&call.payload);
                    members.push(index);
                }
                None => {
                    let rest = &calls[index..];
                    let size = rest.iter().map(|call| call.payload.len()).sum::<usize>();
                    let mut push = Cmd::with_capacity(2 + rest.len(), 32 + call.api.len() + size);
                    push.arg("RPUSH").arg(queue_key(&call.api)).arg(&call.payload);
                    queues.push((&call.api, push, vec![index]));
                }
            }
        }
        let keys = pipeline.len();
        if keys == 0 {
            return answers;
        }
        let mut members = Vec::with_capacity(queues.len());
        if self.client.is_cluster() {
            // The keys live on other servers: all must be set before the first call is sent.
            let mut pushes = Pipeline::with_capacity(queues.len());
            for (_, push, of) in queues {
                pushes.add_command(push);
                members.push(of);
            }
            let set = link.pipeline(&pipeline).await;
            let sent = match set {
                Ok(mut set) => link.pipeline(&pushes).await.map(|pushed| {
                    set.extend(pushed);
                    set
                }),
                Err(error) => Err(error),
            };
            self.assign(link, calls, sent, (keys, &members), &mut answers);
        } else {
            for (_, push, of) in queues {
                pipeline.add_command(push);
                members.push(of);
            }
            let sent = link.pipeline(&pipeline).await;
            self.assign(link, calls, sent, (keys, &members), &mut answers);
        }
        answers
    }

    /// Assigns the answers of Redis to the calls.
    fn assign(
        &self,
        link: &Arc<Link>,
        calls: &[Arc<Outgoing>],
        sent: redis::RedisResult<Vec<Value>>,
        (keys, queues): (usize, &[Vec<usize>]),
        answers: &mut [Result<()>],
    ) {
        let sent = match sent {
            Ok(sent) => sent,
            Err(error) => {
                let error = self.client.explain(link, error, Sent::Maybe);
                for answer in answers.iter_mut().filter(|answer| answer.is_ok()) {
                    *answer = Err(error.clone());
                }
                return;
            }
        };
        let mut sent = sent.into_iter();
        let refused = |error: RedisError, answer: &mut Result<()>| {
            *answer = Err(self.client.explain(link, error, Sent::No));
        };
        for (answer, set) in
            answers.iter_mut().filter(|answer| answer.is_ok()).zip(sent.by_ref().take(keys))
        {
            if let Err(error) = link::answer(set) {
                refused(error, answer);
            }
        }
        for (members, pushed) in queues.iter().zip(sent) {
            match link::answer(pushed) {
                Ok(length) => {
                    if let (Some(length), Some(first)) = (value::int(&length), members.first()) {
                        self.pruner.noticed(&calls[*first].api, length);
                    }
                }
                Err(error) => {
                    for index in members {
                        refused(error.clone(), &mut answers[*index]);
                    }
                }
            }
        }
    }
}

impl BatchSender for CallSender {
    type Item = Arc<Outgoing>;
    type Answer = ();

    fn size(item: &Arc<Outgoing>) -> usize {
        item.payload.len()
    }

    async fn one(&self, call: Arc<Outgoing>) -> Result<()> {
        let link = self.client.shared().await?;
        let call = std::slice::from_ref(&call);
        self.push(&link, call).await.pop().unwrap_or_else(|| Err(Error::too_late()))
    }

    async fn many(&self, calls: Vec<Arc<Outgoing>>) -> Vec<Result<()>> {
        match self.client.shared().await {
            Ok(link) => self.push(&link, &calls).await,
            Err(error) => calls.iter().map(|_| Err(error.clone())).collect(),
        }
    }
}
