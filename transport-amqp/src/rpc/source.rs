//! Takes calls from the queues of their APIs.
//!
//! A call is acknowledged when it has been handled, so that the broker delivers no more calls than there
//! are free slots. A call runs at most once because of another rule: a redelivered call may have run,
//! and is dropped. So an unseen call is not requeued but published again, and an unseen call that was
//! delivered before the connection broke is still handed out here, because no other worker will run it.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use lapin::{BasicProperties, message::Delivery, options::BasicQosOptions, types::ShortString};
use lightbus_core::{
    Closing, Error, Headers, Name, Outcome, RemoteError, Result, ResultMessage, Retry, RpcMessage,
    Source, json, time::deadline_after,
};
use tokio::time::Instant;

use super::{WHAT, codec};
use crate::{
    RpcConfig,
    client::Client,
    error::{Sent, refuses_channel_limit},
    header,
    link::Link,
    publisher::{Message, Publisher},
    result,
    session::{Inbox, Session, try_next},
    set_up::set_up,
    topology::{QueueSpec, calls_of, short},
};

/// What settling a call needs, and publishing it again.
pub(super) struct CallToken {
    session: Arc<Session>,
    tag: u64,
    queue: ShortString,
    properties: BasicProperties,
    body: Bytes,
    deadline: Instant,
    /// It was published again, which must not happen twice.
    republished: AtomicBool,
}

/// Takes the calls of several APIs.
pub(super) struct CallSource {
    client: Arc<Client>,
    closing: Arc<Closing>,
    publisher: Arc<Publisher>,
    config: Arc<RpcConfig>,
    apis: Vec<Name>,
    prefetch: u16,
    /// Set when the broker refuses a prefetch limit of the whole channel.
    limit_each: AtomicBool,
    active: tokio::sync::Mutex<Option<Active>>,
    /// Calls that were delivered and not handed out yet.
    left: Mutex<VecDeque<(Arc<RpcMessage>, CallToken)>>,
}

struct Active {
    session: Arc<Session>,
    inbox: Inbox,
    consumers: Vec<ShortString>,
}

impl CallSource {
    pub(super) fn new(
        client: &Arc<Client>,
        closing: &Arc<Closing>,
        publisher: &Arc<Publisher>,
        config: &Arc<RpcConfig>,
        mut apis: Vec<Name>,
        max_in_flight: usize,
    ) -> Self {
        apis.sort_unstable();
        apis.dedup();
        Self {
            client: Arc::clone(client),
            closing: Arc::clone(closing),
            publisher: Arc::clone(publisher),
            config: Arc::clone(config),
            apis,
            // 0 would be no limit.
            prefetch: u16::try_from(max_in_flight).unwrap_or(u16::MAX).max(1),
            limit_each: AtomicBool::new(false),
            active: tokio::sync::Mutex::new(None),
            left: Mutex::default(),
        }
    }

    /// Starts consuming.
    pub(super) async fn start(&self) -> Result<()> {
        let mut active = self.active.lock().await;
        let deadline = deadline_after(self.client.response_timeout());
        let begin = || set_up(deadline, || self.client.consumes(), |link| self.begin(link));
        let began = match begin().await {
            // The refusal was noted; it has closed the connection.
            Err(_) if self.limit_each.load(Ordering::Relaxed) && self.apis.len() > 1 => {
                begin().await
            }
            began => began,
        };
        *active = Some(began?);
        Ok(())
    }

    async fn begin(&self, link: Arc<Link>) -> Result<Active> {
        let channel = link.channel().await?;
        for api in &self.apis {
            QueueSpec::calls(api, &self.config).declare(&link, &channel).await?;
        }
        // For all queues together, if the broker permits it.
        let global = self.apis.len() > 1 && !self.limit_each.load(Ordering::Relaxed);
        let limit = channel.basic_qos(self.prefetch, BasicQosOptions { global });
        if let Err(error) = link.with_timeout(limit).await? {
            if global && refuses_channel_limit(&error) {
                self.limit_each.store(true, Ordering::Relaxed);
            }
            return Err(link.explain(error, Sent::Harmless));
        }
        let session = Arc::new(Session::new(link, channel));
        let mut inbox = Inbox::new();
        let mut consumers = Vec::with_capacity(self.apis.len());
        for api in &self.apis {
            let tag =
                session.consume(&calls_of(&self.config, api), Name::clone(api), &mut inbox).await?;
            consumers.push(tag);
        }
        Ok(Active { session, inbox, consumers })
    }

    /// Decodes a delivery. Returns `None` if the call must not run.
    async fn read(
        &self,
        session: &Arc<Session>,
        api: &Name,
        delivery: Delivery,
    ) -> Option<(Arc<RpcMessage>, CallToken)> {
        let tag = delivery.delivery_tag;
        let body = Bytes::from(delivery.data);
        let properties = delivery.properties;
        if delivery.redelivered {
            tracing::warn!(
                %api,
                id = properties.message_id().as_ref().map(ShortString::as_str),
                "a call was redelivered after its worker was lost: it may have run, and is dropped"
            );
            session.acknowledge(std::iter::once(tag)).await;
            return None;
        }
        match codec::decode_call(api, &properties, &body, self.config.clock_tolerance.0) {
            Ok(call) if call.deadline > Instant::now() => {
                let deadline = call.deadline;
                let token = CallToken {
                    session: Arc::clone(session),
                    tag,
                    queue: delivery.routing_key,
                    properties,
                    body,
                    deadline,
                    republished: AtomicBool::new(false),
                };
                Some((Arc::new(call), token))
            }
            Ok(call) => {
                tracing::debug!(%api, id = %call.id, "a call expired before a worker took it");
                session.acknowledge(std::iter::once(tag)).await;
                None
            }
            Err(error) => {
                tracing::warn!(%error, %api, message = json::excerpt(&body), "a call cannot be read");
                self.refuse(&properties, &error).await;
                session.acknowledge(std::iter::once(tag)).await;
                None
            }
        }
    }

    /// Answers the caller of a call that cannot be read, if its id and return path can be.
    async fn refuse(&self, properties: &BasicProperties, error: &Error) {
        let Some((id, path)) = codec::salvage_call(properties) else { return };
        if !path.as_str().starts_with(result::RETURN_PREFIX) {
            return;
        }
        let result = ResultMessage {
            id: format!("{id}-refused").into(),
            rpc_id: id,
            headers: Headers::new(),
            body: Err(RemoteError {
                message: format!("the call cannot be read: {error}"),
                ..RemoteError::default()
            }),
        };
        let sent = async {
            let (properties, body) = result::encode_result(&result)?;
            let key = short("the return path", path.as_str())?;
            let message = Message { exchange: "".into(), key, mandatory: false, properties, body };
            let out = self.publisher.channel().await?;
            self.publisher.publish(&out, message, self.publisher.deadline()).await
        };
        if let Err(error) = sent.await {
            tracing::debug!(%error, "the caller of a malformed call could not be answered");
        }
    }

    /// Waits for calls, and takes at most `max`.
    async fn take(
        &self,
        active: &mut Active,
        max: usize,
    ) -> Result<Vec<(Arc<RpcMessage>, CallToken)>> {
        let Active { session, inbox, .. } = active;
        let mut taken = 0;
        let mut next = inbox.next().await;
        // Into `left` first, so that a dropped fetch loses nothing.
        loop {
            match next {
                Some((api, Some(Ok(delivery)))) => {
                    let read = self.read(session, &api, delivery).await;
                    taken += usize::from(read.is_some());
                    self.left().extend(read);
                }
                Some((_, Some(Err(error)))) => return Err(session.ended(Some(error))),
                Some((_, None)) | None => return Err(session.ended(None)),
            }
            if taken == max {
                break;
            }
            let Some(more) = try_next(inbox) else { break };
            next = Some(more);
        }
        Ok(self.take_left(max))
    }

    fn left(&self) -> MutexGuard<'_, VecDeque<(Arc<RpcMessage>, CallToken)>> {
        // Nothing panics while it is locked.
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_left(&self, max: usize) -> Vec<(Arc<RpcMessage>, CallToken)> {
        let now = Instant::now();
        let mut left = self.left();
        left.retain(|(call, _)| call.deadline > now);
        let count = left.len().min(max);
        left.drain(..count).collect()
    }

    /// Publishes an unseen call again.
    async fn republish(&self, token: &CallToken) -> Result<()> {
        let left = token.deadline.saturating_duration_since(Instant::now());
        if left < Duration::from_millis(1) || token.republished.load(Ordering::Acquire) {
            return Ok(());
        }
        let millis = left.as_millis().to_string();
        let mut headers = token.properties.headers().clone().unwrap_or_default();
        headers.insert(Headers::TIME_LEFT_MS.into(), header::text(&millis));
        let properties =
            token.properties.clone().with_expiration(codec::expiration(left)).with_headers(headers);
        let message = Message {
            exchange: "".into(),
            key: token.queue.clone(),
            mandatory: false,
            properties,
            body: token.body.clone(),
        };
        let out = self.publisher.channel().await?;
        let published = self.publisher.publish(&out, message, self.publisher.deadline()).await;
        match published {
            Err(error) if error.retryable() == Retry::Safe => Err(error),
            // It may have been published: not once more.
            published => {
                token.republished.store(true, Ordering::Release);
                published.map(drop).or_else(|error| {
                    tracing::warn!(%error, "an unseen call may be lost");
                    Ok(())
                })
            }
        }
    }
}

/// Acknowledges each call on the channel of its delivery.
async fn acknowledge(tokens: impl Iterator<Item = (&Arc<Session>, u64)>) {
    let mut sessions: Vec<(&Arc<Session>, Vec<u64>)> = Vec::with_capacity(1);
    for (session, tag) in tokens {
        match sessions.iter_mut().find(|(known, _)| Arc::ptr_eq(known, session)) {
            Some((_, tags)) => tags.push(tag),
            None => sessions.push((session, vec![tag])),
        }
    }
    for (session, tags) in sessions {
        session.acknowledge(tags.into_iter()).await;
    }
}

#[async_trait]
impl Source for CallSource {
    type Message = RpcMessage;
    type Token = CallToken;

    const REDELIVERS: bool = false;

    async fn fetch(&self, max: usize) -> Result<Vec<(Arc<RpcMessage>, CallToken)>> {
        if self.closing.is_closed() {
            return Err(Error::closed(WHAT));
        }
        let left = self.take_left(max);
        if !left.is_empty() {
            return Ok(left);
        }
        let work = async {
            let mut active = self.active.lock().await;
            if active.is_none() {
                *active = Some(self.begin(self.client.consumes().await?).await?);
            }
            let Some(current) = active.as_mut() else { return Ok(Vec::new()) };
            let taken = self.take(current, max).await;
            if taken.is_err() {
                *active = None;
            }
            taken
        };
        let taken = tokio::select! {
            biased;
            () = self.closing.closed() => return Err(Error::closed(WHAT)),
            taken = work => taken,
        };
        match taken {
            Err(error) => {
                let left = self.take_left(max);
                if left.is_empty() { Err(error) } else { Ok(left) }
            }
            taken => taken,
        }
    }

    async fn settle(&self, settled: &[(CallToken, Outcome)]) -> Result<()> {
        let mut failed = None;
        for (token, _) in settled.iter().filter(|(_, outcome)| *outcome == Outcome::Retry) {
            if let Err(error) = self.republish(token).await {
                failed = Some(error);
            }
        }
        let over = settled.iter().filter(|(token, outcome)| {
            *outcome != Outcome::Retry
                || token.republished.load(Ordering::Acquire)
                || failed.is_none()
        });
        acknowledge(over.map(|(token, _)| (&token.session, token.tag))).await;
        failed.map_or(Ok(()), Err)
    }

    async fn close(&self) -> Result<()> {
        let Some(mut active) = self.active.lock().await.take() else { return Ok(()) };
        active.session.cancel(&active.consumers).await;
        let mut unseen: Vec<CallToken> = self.left().drain(..).map(|(_, token)| token).collect();
        while let Some((api, delivery)) = try_next(&mut active.inbox) {
            if let Some(Ok(delivery)) = delivery {
                let read = self.read(&active.session, &api, delivery).await;
                unseen.extend(read.map(|(_, token)| token));
            }
        }
        let count = unseen.len();
        for token in &unseen {
            self.republish(token).await?;
        }
        acknowledge(unseen.iter().map(|token| (&token.session, token.tag))).await;
        if count > 0 {
            tracing::debug!(calls = count, "unseen calls were put back");
        }
        Ok(())
    }
}
