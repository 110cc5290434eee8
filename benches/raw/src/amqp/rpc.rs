//! Calls with direct reply-to, many on one channel; the server acknowledges what it has answered.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::future::join_all;
use futures_util::{FutureExt, StreamExt};
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions,
    ConfirmSelectOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel};
use tokio::sync::oneshot;

use super::AmqpSite;
use crate::{Caller, Load, Outcome, Peer, Processes, Result, closed_loop, payload, peer};

const REPLY_TO: &str = "amq.rabbitmq.reply-to";
const PREFETCH: u16 = 1000;

#[derive(Default)]
struct Waiting {
    next: AtomicU64,
    callers: Mutex<HashMap<String, oneshot::Sender<usize>>>,
}

impl Waiting {
    fn expect(&self, id: String, sender: oneshot::Sender<usize>) {
        self.callers.lock().unwrap_or_else(PoisonError::into_inner).insert(id, sender);
    }
}

struct Call {
    channel: Channel,
    queue: String,
    payload: Vec<u8>,
    waiting: Arc<Waiting>,
    confirmed: bool,
}

impl Caller for Call {
    async fn call(&mut self) -> Result<u64> {
        let id = self.waiting.next.fetch_add(1, Ordering::Relaxed).to_string();
        let (sender, receiver) = oneshot::channel();
        self.waiting.expect(id.clone(), sender);
        let mut headers = FieldTable::default();
        headers.insert("time-left-ms".into(), AMQPValue::LongString("5000".into()));
        headers.insert("lightbus-deadline".into(), AMQPValue::LongLongInt(1_700_000_000_000));
        let properties = BasicProperties::default()
            .with_content_type("application/json".into())
            .with_message_id(id.as_str().into())
            .with_correlation_id(id.as_str().into())
            .with_type("echo".into())
            .with_expiration("5000".into())
            .with_headers(headers)
            .with_reply_to(REPLY_TO.into());
        let options = BasicPublishOptions { mandatory: self.confirmed, immediate: false };
        let confirm = self
            .channel
            .basic_publish(
                "".into(),
                self.queue.as_str().into(),
                options,
                &self.payload,
                properties,
            )
            .await?;
        if self.confirmed {
            confirm.await?;
        }
        let length = receiver.await?;
        if length == self.payload.len() { Ok(1) } else { Err("not the result of the call".into()) }
    }
}

pub(crate) async fn measure(
    site: &AmqpSite,
    peer: &Peer,
    confirmed: bool,
    callers: usize,
    load: Load,
) -> Result<Outcome> {
    let (_connection, channel) = site.channel().await?;
    if confirmed {
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
    }
    let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
    let mut results =
        channel.basic_consume(REPLY_TO.into(), "".into(), options, FieldTable::default()).await?;
    let waiting = Arc::new(Waiting::default());
    let shared = Arc::clone(&waiting);
    let receiving = tokio::spawn(async move {
        while let Some(Ok(result)) = results.next().await {
            let id = result.properties.correlation_id().as_ref();
            let mut callers = shared.callers.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(caller) = id.and_then(|id| callers.remove(id.as_str())) {
                let _ = caller.send(result.data.len());
            }
        }
    });
    let call = || Call {
        channel: channel.clone(),
        queue: site.queue(),
        payload: payload::text(site.bytes).into_bytes(),
        waiting: Arc::clone(&waiting),
        confirmed,
    };
    let calls = std::iter::repeat_with(call).take(callers).collect();
    let processes = Processes { server: Some(peer.pid()), ..Processes::of_client() };
    let outcome = closed_loop(calls, load, processes).await;
    receiving.abort();
    site.delete().await?;
    outcome
}

/// The other process.
pub(crate) async fn serve(site: &AmqpSite) -> Result<()> {
    const AT_ONCE: usize = 64;
    let (_connection, channel) = site.channel().await?;
    site.declare(&channel, false).await?;
    channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
    let options = BasicConsumeOptions::default();
    let mut calls = channel
        .basic_consume(site.queue().into(), "".into(), options, FieldTable::default())
        .await?;
    peer::ready();
    let mut batch = Vec::with_capacity(AT_ONCE);
    while let Some(call) = calls.next().await {
        batch.push(call?);
        while batch.len() < AT_ONCE
            && let Some(Some(call)) = calls.next().now_or_never()
        {
            batch.push(call?);
        }
        let answers = batch.iter().filter_map(|call| {
            let key = call.properties.reply_to().clone()?;
            let id = call.properties.correlation_id().clone()?;
            let properties = BasicProperties::default()
                .with_content_type("application/json".into())
                .with_message_id(id.clone())
                .with_correlation_id(id);
            let options = BasicPublishOptions::default();
            Some(channel.basic_publish("".into(), key, options, &call.data, properties))
        });
        for answered in join_all(answers).await {
            answered?;
        }
        if let Some(last) = batch.last() {
            channel.basic_ack(last.delivery_tag, BasicAckOptions { multiple: true }).await?;
        }
        batch.clear();
    }
    // With its queue: the measurement is over, and this process about to be ended.
    std::future::pending().await
}
