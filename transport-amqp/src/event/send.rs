//! Fires events: publishes with confirms, and publishes again what a lost connection left unconfirmed.

use std::time::SystemTime;

use lightbus_core::{Error, ErrorKind, EventMessage, Name, Result, Retry};
use tokio::time::Instant;

use super::{codec, exchange::Exchange};
use crate::{
    EventConfig,
    publisher::{Message, PublishChannel, Publisher},
    set_up::set_up,
    topology::{self, QueueSpec, routing_key, short},
};

/// How often events are published if their confirms are lost with the connection. Their ids stay the same,
/// so that a listener can recognise duplicates.
const TRIES: u32 = 3;
/// The name under which a channel knows that the exchange is declared. No API has it.
const EXCHANGE: &str = "";

/// Sends events, and returns their ids.
pub(super) async fn send(
    publisher: &Publisher,
    config: &EventConfig,
    declared: &Exchange,
    events: &[EventMessage],
) -> Result<Vec<Name>> {
    if events.is_empty() {
        return Ok(Vec::new());
    }
    let now = SystemTime::now();
    let exchange = short("the name of the exchange", &topology::exchange_of(config))?;
    // Encoded for each attempt: mostly there is one.
    let encode = |event: &EventMessage| {
        let (properties, body) = codec::encode_event(event, now)?;
        let key = routing_key(&event.api, Some(&event.event));
        let key = short("the name of an event, with its API,", &key)?;
        Ok(Message { exchange: exchange.clone(), key, mandatory: false, properties, body })
    };
    let mut missing: Vec<&EventMessage> = events.iter().collect();
    let deadline = publisher.deadline();
    let mut tries = 1;
    let mut maybe_stored = false;
    loop {
        let messages = missing.iter().copied().map(encode).collect::<Result<Vec<_>>>()?;
        let tried = attempt(publisher, config, declared, events, messages, deadline).await;
        let error = match tried {
            Ok(results) => {
                let stored = results.iter().filter(|result| result.is_ok()).count();
                maybe_stored |= stored > 0;
                let mut results = results.into_iter();
                let mut last = None;
                missing.retain(|_| match results.next() {
                    Some(Err(error)) => {
                        maybe_stored |= error.retryable() == Retry::MayDuplicate;
                        // One that is too large stays so, whatever becomes of the others.
                        if last.as_ref().is_none_or(Error::is_temporary) {
                            last = Some(error);
                        }
                        true
                    }
                    _ => false,
                });
                match last {
                    None => return Ok(events.iter().map(|event| Name::clone(&event.id)).collect()),
                    Some(error) => error,
                }
            }
            Err(error) => error,
        };
        let lost = error.retryable() == Retry::MayDuplicate && publisher.channel_is_lost();
        tries += 1;
        if !lost || tries > TRIES || Instant::now() >= deadline {
            return Err(if maybe_stored && error.is_temporary() {
                error.retry(Retry::MayDuplicate)
            } else {
                error
            });
        }
        tracing::debug!(%error, events = missing.len(), "events are sent again over a new connection");
    }
}

async fn attempt(
    publisher: &Publisher,
    config: &EventConfig,
    exchange: &Exchange,
    events: &[EventMessage],
    mut messages: Vec<Message>,
    deadline: Instant,
) -> Result<Vec<Result<()>>> {
    let prepare = set_up(
        deadline,
        || publisher.channel(),
        |out| async move {
            ensure(&out, config, exchange, events, deadline).await?;
            Ok(out)
        },
    );
    let out = tokio::time::timeout_at(deadline, prepare)
        .await
        .unwrap_or_else(|_| Err(Error::new(ErrorKind::Unavailable, "RabbitMQ did not answer")))?;
    if messages.len() == 1
        && let Some(message) = messages.pop()
    {
        return Ok(vec![publisher.publish(&out, message, deadline).await.map(drop)]);
    }
    let published = publisher.publish_all(&out, messages, deadline).await;
    Ok(published.into_iter().map(|result| result.map(drop)).collect())
}

/// Declares what events are published to, once per channel.
async fn ensure(
    out: &PublishChannel,
    config: &EventConfig,
    exchange: &Exchange,
    events: &[EventMessage],
    deadline: Instant,
) -> Result<()> {
    if !out.knows(EXCHANGE) {
        exchange.declare(&out.link, &topology::exchange_of(config), deadline).await?;
        out.learn(EXCHANGE);
    }
    let Some(history) = &config.history else { return Ok(()) };
    let mut last: Option<&Name> = None;
    for event in events {
        // Mostly, all events are of one API.
        if last.is_some_and(|last| Name::ptr_eq(last, &event.api)) {
            continue;
        }
        last = Some(&event.api);
        if out.knows(&event.api) {
            continue;
        }
        let channel = out.link.channel().await?;
        let spec = QueueSpec::history(&event.api, config, history);
        spec.declare(&out.link, &channel).await?;
        let key = routing_key(&event.api, None);
        let exchange = topology::exchange_of(config);
        topology::bind(&out.link, &channel, &exchange, spec.name(), &key).await?;
        out.learn(&event.api);
    }
    Ok(())
}
