//! What is declared on the broker: names and arguments of queues, streams and the exchange.

use std::time::Duration;

use lapin::{
    Channel,
    options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable, ShortString},
};
use lightbus_core::{Error, ErrorKind, Name, Result};

use crate::{
    EventConfig, HistoryConfig, QueueType, RpcConfig,
    error::{Sent, is_missing, refuses_transient_queues},
    link::Link,
};

/// Returns the queue of an API's calls.
pub(crate) fn calls_of(config: &RpcConfig, api: &str) -> String {
    format!("{}{api}.rpc_queue", config.prefix)
}

/// Returns the stream of an API's past events.
pub(crate) fn history_of(config: &EventConfig, api: &str) -> String {
    format!("{}{api}.history", config.prefix)
}

/// Returns the exchange of events.
pub(crate) fn exchange_of(config: &EventConfig) -> String {
    format!("{}{}", config.prefix, config.exchange)
}

/// Returns the queue of a consumer group.
pub(crate) fn queue_of(config: &EventConfig, group: &str) -> String {
    format!("{}{group}", config.prefix)
}

/// Returns the queue of a group's dead letters.
pub(crate) fn dead_letters_of(config: &EventConfig, group: &str) -> String {
    format!("{}{group}.dead_letters", config.prefix)
}

/// Returns the group whose dead letters a queue has.
pub(crate) fn group_of_dead_letters<'a>(config: &EventConfig, queue: &'a str) -> &'a str {
    let name = queue.strip_prefix(config.prefix.as_str()).unwrap_or(queue);
    name.strip_suffix(".dead_letters").unwrap_or(name)
}

/// Converts a name to a short string, which has at most 255 bytes.
pub(crate) fn short(what: &'static str, text: &str) -> Result<ShortString> {
    ShortString::try_new(text).map_err(|_| {
        Error::new(ErrorKind::TooLarge, format!("{what} is longer than 255 bytes"))
            .with("length", text.len())
    })
}

/// A queue to be declared.
pub(crate) struct QueueSpec {
    name: String,
    durable: bool,
    arguments: FieldTable,
}

impl QueueSpec {
    fn new(name: String, durable: bool) -> Self {
        Self { name, durable, arguments: FieldTable::default() }
    }

    fn with(mut self, name: &'static str, value: AMQPValue) -> Self {
        self.arguments.insert(name.into(), value);
        self
    }

    /// The queue of an API's calls. It is transient: it vanishes with its node and is declared again on
    /// another, because calls would expire before the node returns.
    pub(crate) fn calls(api: &str, config: &RpcConfig) -> Self {
        Self::new(calls_of(config, api), false)
            .with("x-expires", milliseconds(config.queue_expires.0))
            .with("x-max-length", AMQPValue::LongLongInt(config.max_queue_length.max(1).into()))
            .with("x-overflow", text("reject-publish"))
    }

    /// The queue of a listener's group.
    pub(crate) fn group(group: &str, config: &EventConfig) -> Self {
        let mut spec = Self::new(queue_of(config, group), true)
            .with("x-dead-letter-exchange", text(""))
            .with("x-dead-letter-routing-key", text(&dead_letters_of(config, group)));
        if config.queue_type == QueueType::Quorum {
            spec = spec
                .with("x-queue-type", text("quorum"))
                .with("x-delivery-limit", AMQPValue::LongLongInt(config.delivery_limit.into()));
        }
        if config.single_active_consumer {
            spec = spec.with("x-single-active-consumer", AMQPValue::Boolean(true));
        }
        spec
    }

    /// The queue of a group's dead letters.
    pub(crate) fn dead_letters(group: &str, config: &EventConfig) -> Self {
        let limit = AMQPValue::LongLongInt(config.dead_letter_limit.max(1).into());
        let spec = Self::new(dead_letters_of(config, group), true).with("x-max-length", limit);
        match config.queue_type {
            // Listing takes and requeues them, which must not count as delivery attempts.
            QueueType::Quorum => spec
                .with("x-queue-type", text("quorum"))
                .with("x-delivery-limit", AMQPValue::LongLongInt(i64::from(i32::MAX))),
            QueueType::Classic => spec,
        }
    }

    /// The stream of an API's past events.
    pub(crate) fn history(api: &str, config: &EventConfig, keep: &HistoryConfig) -> Self {
        let bytes = i64::try_from(keep.max_bytes.max(1)).unwrap_or(i64::MAX);
        // Whole segments are dropped: several segments make the limits more exact.
        let segment = (bytes / 8).clamp(1 << 20, 500_000_000);
        Self::new(history_of(config, api), true)
            .with("x-queue-type", text("stream"))
            .with("x-max-length-bytes", AMQPValue::LongLongInt(bytes))
            .with("x-max-age", text(&format!("{}s", keep.max_age.0.as_secs().max(1))))
            .with("x-stream-max-segment-size-bytes", AMQPValue::LongLongInt(segment))
    }

    /// The stream of all schemas. It may be small, because writers renew their schemas.
    pub(crate) fn schemas(name: &str) -> Self {
        Self::new(name.to_owned(), true)
            .with("x-queue-type", text("stream"))
            .with("x-max-length-bytes", AMQPValue::LongLongInt(64 << 20))
            .with("x-stream-max-segment-size-bytes", AMQPValue::LongLongInt(4 << 20))
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Declares the queue.
    pub(crate) async fn declare(&self, link: &Link, channel: &Channel) -> Result<()> {
        let name = short("the name of a queue", &self.name)?;
        let declare = |channel: Channel, durable| {
            let options = QueueDeclareOptions { durable, ..QueueDeclareOptions::default() };
            let (name, arguments) = (name.clone(), self.arguments.clone());
            async move { channel.queue_declare(name, options, arguments).await }
        };
        let error = match link.with_timeout(declare(channel.clone(), self.durable)).await? {
            Ok(_) => return Ok(()),
            Err(error) => error,
        };
        if !self.durable && refuses_transient_queues(&error) {
            // The refusal closed the connection or the channel, which the next caller replaces.
            return Err(link.explain(error, Sent::Harmless).hint(
                "Permit transient queues in the broker: deprecated_features.permit.transient_nonexcl_queues = true",
            ));
        }
        Err(link.explain(error, Sent::Harmless).with("queue", &self.name))
    }
}

/// Returns how many messages wait in a queue; `None` if it does not exist.
pub(crate) async fn waiting(link: &Link, queue: &str) -> Result<Option<u32>> {
    Ok(counts(link, queue).await?.map(|(messages, _)| messages))
}

/// Returns how many messages wait in a queue and how many consumers it has; `None` if it does not exist.
pub(crate) async fn counts(link: &Link, queue: &str) -> Result<Option<(u32, u32)>> {
    // On its own channel, which is closed if the queue does not exist.
    let channel = link.channel().await?;
    let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    let name = short("the name of a queue", queue)?;
    match link.with_timeout(channel.queue_declare(name, options, FieldTable::default())).await? {
        Ok(found) => Ok(Some((found.message_count(), found.consumer_count()))),
        Err(error) if is_missing(&error) => Ok(None),
        Err(error) => Err(link.explain(error, Sent::Harmless).with("queue", queue)),
    }
}

/// Whether an exchange of this name exists, whatever its type.
pub(crate) async fn has_exchange(link: &Link, name: &str) -> Result<bool> {
    exchange_exists(link, &link.channel().await?, name).await
}

/// The same, on a channel that is closed if the exchange does not exist.
pub(crate) async fn exchange_exists(link: &Link, channel: &Channel, name: &str) -> Result<bool> {
    let options = ExchangeDeclareOptions { passive: true, ..ExchangeDeclareOptions::default() };
    let exchange = short("the name of the exchange", name)?;
    let kind = lapin::ExchangeKind::Topic;
    let found = channel.exchange_declare(exchange, kind, options, FieldTable::default());
    match link.with_timeout(found).await? {
        Ok(()) => Ok(true),
        Err(error) if is_missing(&error) => Ok(false),
        Err(error) => Err(link.explain(error, Sent::Harmless).with("exchange", name)),
    }
}

/// Declares the exchange of events.
pub(crate) async fn declare_exchange(link: &Link, channel: &Channel, name: &str) -> Result<()> {
    let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    let exchange = short("the name of the exchange", name)?;
    let declare = channel.exchange_declare(
        exchange,
        lapin::ExchangeKind::Topic,
        options,
        FieldTable::default(),
    );
    link.request(declare, Sent::Harmless).await
}

/// Binds a queue to a routing key.
pub(crate) async fn bind(
    link: &Link,
    channel: &Channel,
    exchange: &str,
    queue: &str,
    key: &str,
) -> Result<()> {
    let bind = channel.queue_bind(
        short("the name of a queue", queue)?,
        short("the name of the exchange", exchange)?,
        short("the name of an event, with its API,", key)?,
        QueueBindOptions::default(),
        FieldTable::default(),
    );
    link.request(bind, Sent::Harmless).await
}

/// Returns the routing key of an event, or of all events of an API.
pub(crate) fn routing_key(api: &Name, event: Option<&Name>) -> String {
    format!("{api}.{}", event.map_or("*", |event| event))
}

fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(value.into())
}

/// RabbitMQ takes at most 2³² − 1 of them, 49 days.
fn milliseconds(time: Duration) -> AMQPValue {
    AMQPValue::LongLongInt(u32::try_from(time.as_millis()).unwrap_or(u32::MAX).max(1).into())
}
