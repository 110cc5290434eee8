//! Dead letters: events that could not be handled, in a queue of their own, with the reason.

use std::time::SystemTime;

use lapin::{
    message::Delivery,
    options::{BasicGetOptions, BasicNackOptions},
    types::{AMQPValue, FieldTable},
};
use lightbus_core::{Error, EventMessage, Fields, Name, Result, transport::DeadLetter};

use super::raw::{Raw, Read};
use crate::{
    EventConfig,
    client::Client,
    error::{Sent, is_missing},
    publisher::{Message, Publisher},
    topology::{dead_letters_of, short},
    wire,
};

/// The most bytes of a reason that are kept.
const LONGEST_REASON: usize = 4096;

const REASON: &str = "lightbus-dead-reason";
const ATTEMPTS: &str = "lightbus-dead-attempts";
const GROUP: &str = "lightbus-dead-group";
const TIME: &str = "lightbus-dead-time";
const EXCHANGE: &str = "lightbus-dead-exchange";
const ROUTING_KEY: &str = "lightbus-dead-routing-key";

/// Puts a message among the dead letters of a group. Done twice it is there twice.
pub(super) async fn set_aside(
    publisher: &Publisher,
    config: &EventConfig,
    group: &str,
    reason: &str,
    attempts: u32,
    raw: &Raw,
) -> Result<()> {
    let mut headers = raw.properties.headers().clone().unwrap_or_default();
    headers.insert(REASON.into(), wire::text(shortened(reason)));
    headers.insert(ATTEMPTS.into(), AMQPValue::LongLongInt(attempts.into()));
    headers.insert(GROUP.into(), wire::text(group));
    let now = wire::epoch_ms(SystemTime::now());
    headers.insert(TIME.into(), AMQPValue::LongLongInt(now));
    headers.insert(EXCHANGE.into(), wire::text(raw.exchange.as_str()));
    headers.insert(ROUTING_KEY.into(), wire::text(raw.key.as_str()));
    let message = Message {
        exchange: "".into(),
        key: short("the name of a queue", &dead_letters_of(config, group))?,
        mandatory: true,
        properties: raw.properties.clone().with_delivery_mode(2).with_headers(headers),
        body: raw.body.clone(),
    };
    let outlet = publisher.outlet().await?;
    match publisher.publish(&outlet, message, publisher.deadline()).await? {
        None => Ok(()),
        Some(_) => Err(Error::new(
            lightbus_core::ErrorKind::Unavailable,
            "the queue of dead letters is not there",
        )
        .with("queue", dead_letters_of(config, group))
        .hint("It is made when a process begins to listen; has somebody deleted it?")),
    }
}

fn shortened(reason: &str) -> &str {
    if reason.len() <= LONGEST_REASON {
        return reason;
    }
    let end = (0..=LONGEST_REASON).rev().find(|end| reason.is_char_boundary(*end)).unwrap_or(0);
    &reason[..end]
}

/// What a group set aside, oldest first. Read by taking and giving back: who reads at the same time
/// may see less.
pub(super) async fn list(
    client: &Client,
    config: &EventConfig,
    group: &str,
    limit: usize,
) -> Result<Vec<DeadLetter>> {
    let link = client.consumes().await?;
    let channel = link.channel().await?;
    let queue = short("the name of a queue", &dead_letters_of(config, group))?;
    let mut letters = Vec::new();
    let mut last = None;
    while letters.len() < limit {
        let get = channel.basic_get(queue.clone(), BasicGetOptions { no_ack: false });
        match link.asked(get).await? {
            Ok(Some(message)) => {
                last = Some(message.delivery.delivery_tag);
                letters.push(read(message.delivery, group));
            }
            Ok(None) => break,
            Err(error) if is_missing(&error) => return Ok(Vec::new()),
            Err(error) => return Err(link.explain(error, Sent::Harmless)),
        }
    }
    if let Some(last) = last {
        let options = BasicNackOptions { multiple: true, requeue: true };
        link.answered(channel.basic_nack(last, options), Sent::Harmless).await?;
    }
    link.answered(channel.close(200, "read".into()), Sent::Harmless).await?;
    Ok(letters)
}

fn read(delivery: Delivery, group: &str) -> DeadLetter {
    let raw = Raw::new(delivery);
    let none = FieldTable::default();
    let headers = raw.properties.headers().as_ref().unwrap_or(&none);
    let number = |name| wire::int(headers, name);
    let attempts = number(ATTEMPTS)
        .or_else(|| number("x-delivery-count"))
        .and_then(|attempts| u32::try_from(attempts).ok())
        .unwrap_or(0);
    // What the broker set aside by itself, it says in its own way.
    let reason = wire::string(headers, REASON).map(str::to_owned).unwrap_or_else(|| {
        let why = wire::string(headers, "x-first-death-reason").unwrap_or("for an unknown reason");
        format!("RabbitMQ set it aside: {why}")
    });
    let names = |api: &str, event: &str| Some((Name::from(api), Name::from(event)));
    let event = match raw.read(attempts, names) {
        Read::Event(event) => *event,
        Read::Other | Read::Malformed(_) => unreadable(&raw, headers, attempts),
    };
    DeadLetter {
        id: event.native_id.clone().unwrap_or_else(|| Name::from("")),
        event,
        group: group.into(),
        reason,
        attempts,
        time: number(TIME).and_then(wire::time_of).unwrap_or(SystemTime::UNIX_EPOCH),
    }
}

/// An event of which only parts can be read.
fn unreadable(raw: &Raw, headers: &FieldTable, attempt: u32) -> EventMessage {
    let key = wire::string(headers, ROUTING_KEY).unwrap_or_default();
    let (api, event) = wire::event_names(&raw.properties, key).unwrap_or_default();
    let id = raw.properties.message_id().as_ref().map(|id| Name::from(id.as_str()));
    let id = id.unwrap_or_else(|| Name::from(""));
    EventMessage {
        native_id: Some(Name::clone(&id)),
        attempt,
        ..EventMessage::new(id, api, event, 0, Fields::new())
    }
}
