//! Takes calls, as a member of the workers' group of each API.
//!
//! A call runs at most once: its offset is committed before it is handed over (`COMMITS_FIRST`), so
//! that a worker that dies loses it rather than having it run twice. A call that was taken and not
//! started is sent again when the worker closes.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use futures_util::future::{join_all, try_join_all};
use lightbus_core::{
    Closing, Error, Name, Outcome, RemoteError, Result, ResultMessage, ReturnPath, RpcMessage,
    Source, json, transport::Start,
};
use rdkafka::{Message, message::BorrowedHeaders};
use tokio::time::Instant;

use super::{
    WHAT,
    codec::{self, Read},
    send::Queues,
};
use crate::{
    RpcConfig,
    client::User,
    group::{Assignments, Handoff, Member, MemberSpec, Reading, RecordPosition},
    result::{ReplyPath, outgoing},
};

/// A record that was taken.
pub(super) enum Taken {
    Call(Box<RpcMessage>),
    /// It cannot be read, for this reason; its caller is told.
    Malformed(String, Name, ReturnPath),
}

/// Reads the calls of one API.
struct Calls {
    api: Name,
    usual: Duration,
    expired: Arc<AtomicU64>,
}

impl Reading for Calls {
    type Item = Taken;

    // At most once.
    const COMMITS_FIRST: bool = true;

    fn read<M: Message<Headers = BorrowedHeaders>>(
        &mut self,
        record: &M,
        _: RecordPosition,
    ) -> Option<Taken> {
        match codec::read(record, &self.api, self.usual) {
            Read::Call(call) => Some(Taken::Call(call)),
            Read::Expired => {
                let total = self.expired.fetch_add(1, Ordering::Relaxed) + 1;
                tracing::debug!(
                    api = &*self.api,
                    total,
                    "a call was dropped: its deadline has passed"
                );
                None
            }
            Read::Malformed(reason, from) => {
                tracing::warn!(
                    api = &*self.api,
                    reason,
                    call = json::excerpt(record.payload().unwrap_or_default()),
                    "a call cannot be read"
                );
                from.map(|(id, path)| Taken::Malformed(reason, id, path))
            }
        }
    }
}

/// Takes the calls of several APIs.
pub(super) struct CallSource {
    queues: Arc<Queues>,
    closing: Arc<Closing>,
    handoff: Arc<Handoff<Taken>>,
    members: Vec<Member<Taken>>,
    /// Keeps the producer, because unseen calls are sent again after the transport is closed.
    _user: User,
}

impl CallSource {
    pub(super) async fn start(
        queues: &Arc<Queues>,
        closing: &Arc<Closing>,
        apis: &[Name],
        config: &RpcConfig,
    ) -> Result<Self> {
        let handoff = Arc::new(Handoff::new());
        let expired = Arc::new(AtomicU64::new(0));
        let joins = apis.iter().map(|api| {
            let (handoff, expired) = (Arc::clone(&handoff), Arc::clone(&expired));
            async move {
                let topic = queues.topic(api);
                let count = queues.client.topic(&topic, &queues.spec).await?;
                tracing::info!(
                    api = &**api,
                    topic = &*topic,
                    partitions = count,
                    "at most {count} workers share the calls, because each partition has one worker; \
                     `kafka-topics --alter --partitions` adds partitions"
                );
                let calls = Calls { api: Name::clone(api), usual: config.rpc_timeout.0, expired };
                Member::join(queues.member(api, topic, config), calls, &handoff).await
            }
        });
        let members = try_join_all(joins).await?;
        Ok(Self {
            queues: Arc::clone(queues),
            closing: Arc::clone(closing),
            handoff,
            members,
            _user: User::new(Arc::clone(&queues.client)),
        })
    }

    /// Returns the partitions that it takes from, for each API in turn.
    pub(super) fn assignments(&self) -> impl Iterator<Item = &Arc<Assignments>> {
        self.members.iter().map(Member::assignments)
    }

    /// Answers a call that cannot be read, so that its caller does not wait in vain.
    fn refuse(&self, reason: &str, id: Name, path: &ReturnPath) {
        let Some(to) = ReplyPath::read(path) else { return };
        let client = Arc::clone(&self.queues.client);
        let error = RemoteError {
            message: format!("the call cannot be read: {reason}"),
            ..RemoteError::default()
        };
        let result = ResultMessage {
            id: format!("{id}-refused").into(),
            rpc_id: id,
            headers: Default::default(),
            body: Err(error),
        };
        // In a task: the calls that were fetched with it must not be lost if the fetch is dropped.
        tokio::spawn(async move {
            if let Err(error) = client.send(vec![outgoing(&to, &result)]).await {
                tracing::debug!(%error, "the caller of a malformed call could not be answered");
            }
        });
    }

    /// Sends calls that no handler has seen again.
    async fn give_back<'a>(&self, calls: impl Iterator<Item = &'a RpcMessage>) -> Result<()> {
        let now = Instant::now();
        let sends = calls.filter(|call| call.deadline > now).map(|call| self.queues.send(call));
        for sent in join_all(sends).await {
            // At most once: it may have been stored, so that it is not sent once more.
            if let Err(error) = sent {
                tracing::warn!(%error, "a call that no handler has seen could not be sent again");
            }
        }
        Ok(())
    }
}

impl Queues {
    fn member(&self, api: &str, topic: Name, config: &RpcConfig) -> MemberSpec {
        let group = self.group(api);
        let endpoint = self.client.endpoint();
        MemberSpec {
            config: endpoint.member(&group, config.session_timeout.0, config.fetch_wait.0),
            broker: endpoint.broker.clone(),
            group,
            topics: vec![topic],
            start: Start::Earliest,
            timeout: endpoint.timeout,
            revoke_timeout: Duration::ZERO,
            release_after: Some(config.release_after.0).filter(|after| !after.is_zero()),
        }
    }
}

#[async_trait]
impl Source for CallSource {
    type Message = RpcMessage;
    /// The call, to be sent again if no handler has seen it.
    type Token = Arc<RpcMessage>;

    const REDELIVERS: bool = false;

    async fn fetch(&self, max: usize) -> Result<Vec<(Arc<RpcMessage>, Arc<RpcMessage>)>> {
        let taken = tokio::select! {
            biased;
            taken = self.handoff.fetch(max) => taken?,
            () = self.closing.closed() => return Err(Error::closed(WHAT)),
        };
        let now = Instant::now();
        let mut calls = Vec::with_capacity(taken.len());
        for taken in taken {
            match taken {
                // It expired while its offset was committed.
                Taken::Call(call) if call.deadline <= now => {}
                Taken::Call(call) => {
                    let call: Arc<RpcMessage> = call.into();
                    calls.push((Arc::clone(&call), call));
                }
                Taken::Malformed(reason, id, path) => self.refuse(&reason, id, &path),
            }
        }
        Ok(calls)
    }

    async fn settle(&self, settled: &[(Arc<RpcMessage>, Outcome)]) -> Result<()> {
        let unseen = settled.iter().filter(|(_, outcome)| *outcome == Outcome::Retry);
        self.give_back(unseen.map(|(call, _)| &**call)).await
    }

    async fn close(&self) -> Result<()> {
        join_all(self.members.iter().map(Member::leave)).await;
        let left: Vec<_> = self
            .handoff
            .clear()
            .into_iter()
            .filter_map(|taken| match taken {
                Taken::Call(call) => Some(call),
                Taken::Malformed(..) => None,
            })
            .collect();
        self.give_back(left.iter().map(|call| &**call)).await
    }
}
