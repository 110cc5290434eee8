//! Sends calls to the queue of their API, which is declared if need be.

use std::time::Duration;

use lapin::message::BasicReturnMessage;
use lightbus_core::{
    Backoff, Closing, Error, ErrorKind, Result, Retry, RpcMessage, time::deadline_after,
};
use tokio::time::{Instant, sleep_until};

use super::codec;
use crate::{
    RpcConfig, UnknownApi,
    publisher::{Message, PublishChannel, Publisher},
    topology::{self, QueueSpec, calls_of, short},
};

/// The backoff before a call that could not be sent is retried.
const FIRST_RETRY: Duration = Duration::from_millis(50);
const LONGEST_RETRY: Duration = Duration::from_secs(1);

/// Sends a call, and retries until it may have been sent or there is no time for another attempt.
pub(super) async fn call(
    publisher: &Publisher,
    closing: &Closing,
    config: &RpcConfig,
    call: &RpcMessage,
) -> Result<()> {
    let mut backoff = Backoff::new(FIRST_RETRY, LONGEST_RETRY);
    loop {
        let error = match once(publisher, config, call).await {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        let again = deadline_after(backoff.failed());
        if error.retryable() != Retry::Safe || again >= call.deadline {
            return Err(error);
        }
        tokio::select! {
            () = sleep_until(again) => {}
            () = closing.closed() => return Err(Error::closed(super::WHAT)),
        }
    }
}

async fn once(publisher: &Publisher, config: &RpcConfig, call: &RpcMessage) -> Result<()> {
    if call.deadline <= Instant::now() {
        return Err(Error::too_late());
    }
    let late = |error: Error| {
        error.with("broker", format_args!("rabbitmq {}", publisher.client().broker()))
    };
    let prepare = async {
        let out = publisher.channel().await?;
        ensure(&out, config, &call.api).await?;
        out.link.unblocked(call.deadline).await?;
        Ok(out)
    };
    let out = tokio::time::timeout_at(call.deadline, prepare)
        .await
        .unwrap_or_else(|_| Err(late(Error::too_late())))?;
    let left = call.deadline.saturating_duration_since(Instant::now());
    // It would expire as it arrives.
    if left < Duration::from_millis(1) {
        return Err(late(Error::too_late()));
    }
    let (properties, body) = codec::encode_call(call, left)?;
    let queue = short("the name of the API", &calls_of(config, &call.api))?;
    let message = Message { exchange: "".into(), key: queue, mandatory: true, properties, body };
    let deadline = call.deadline.min(publisher.deadline());
    match publisher.publish(&out, message, deadline).await {
        Ok(None) => Ok(()),
        Ok(Some(returned)) => returned_call(publisher, &out, config, call, returned).await,
        Err(_) if Instant::now() >= call.deadline => Err(late(Error::unconfirmed())),
        Err(error) => Err(error),
    }
}

/// Declares the queue of an API, once per channel.
async fn ensure(out: &PublishChannel, config: &RpcConfig, api: &str) -> Result<()> {
    if out.knows(api) {
        return Ok(());
    }
    match config.unknown_api {
        UnknownApi::Wait => declare(out, config, api).await?,
        UnknownApi::Refuse => {
            if topology::waiting(&out.link, &calls_of(config, api)).await?.is_none() {
                return Err(unknown(config, api));
            }
        }
    }
    out.learn(api);
    Ok(())
}

async fn declare(out: &PublishChannel, config: &RpcConfig, api: &str) -> Result<()> {
    // On its own channel: a conflict closes it, and other calls are being sent.
    let channel = out.link.channel().await?;
    QueueSpec::calls(api, config).declare(&out.link, &channel).await
}

fn unknown(config: &RpcConfig, api: &str) -> Error {
    Error::new(ErrorKind::Unknown, format!("no process has ever served the API `{api}`"))
        .with("queue", calls_of(config, api))
        .hint("Is its service running, on this broker and vhost? With `unknown_api: wait`, calls wait for it")
}

/// Handles a call that the broker returned because its queue has vanished. It may be another call than
/// `call`: the client library hands returned messages out with the next confirm.
async fn returned_call(
    publisher: &Publisher,
    out: &PublishChannel,
    config: &RpcConfig,
    call: &RpcMessage,
    returned: BasicReturnMessage,
) -> Result<()> {
    let queue = returned.routing_key.clone();
    let name = queue.as_str();
    let api = name.strip_suffix(".rpc_queue").unwrap_or(name);
    let api = api.strip_prefix(config.prefix.as_str()).unwrap_or(api).to_owned();
    out.forget(&api);
    let properties = returned.delivery.properties.clone();
    let is_own = properties.message_id().as_ref().is_some_and(|id| id.as_str() == &*call.id);
    if config.unknown_api == UnknownApi::Refuse {
        return if is_own { Err(unknown(config, &api)) } else { Ok(()) };
    }
    declare(out, config, &api).await?;
    out.learn(&api);
    let message = Message {
        exchange: "".into(),
        key: queue,
        mandatory: false,
        properties,
        body: returned.delivery.data.into(),
    };
    publisher.publish(out, message, publisher.deadline()).await.map(drop)
}
