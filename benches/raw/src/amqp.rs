//! RabbitMQ by lapin: what the AMQP transport sends, and nothing else.

pub(crate) mod consume;
pub(crate) mod fire;
pub(crate) mod rpc;

use lapin::options::{
    ExchangeDeclareOptions, ExchangeDeleteOptions, QueueBindOptions, QueueDeclareOptions,
    QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, ExchangeKind};

use crate::{Error, Result, Serve};

/// Where a measurement on RabbitMQ takes place.
#[derive(Debug)]
pub(crate) struct AmqpSite {
    url: String,
    prefix: String,
    pub(crate) bytes: usize,
}

impl AmqpSite {
    pub(crate) fn of(serve: &Serve) -> Result<Self> {
        let url = serve.amqp.clone().ok_or_else(|| Error::from("--amqp names no broker"))?;
        Ok(Self { url, prefix: serve.prefix.clone(), bytes: serve.bytes })
    }

    /// A queue of this measurement.
    pub(crate) fn queue(&self) -> String {
        format!("{}.queue", self.prefix)
    }

    /// A connection with a channel. Nagle's algorithm is off, as the client has it.
    pub(crate) async fn channel(&self) -> Result<(Connection, Channel)> {
        let connection = Connection::connect(&self.url, ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        Ok((connection, channel))
    }

    /// Makes the queue, of the kind that the transport uses for events or for calls.
    pub(crate) async fn declare(&self, channel: &Channel, quorum: bool) -> Result<()> {
        let options = QueueDeclareOptions { durable: quorum, ..QueueDeclareOptions::default() };
        let mut arguments = FieldTable::default();
        if quorum {
            let kind = AMQPValue::LongString("quorum".into());
            arguments.insert("x-queue-type".into(), kind);
        }
        channel.queue_declare(self.queue().into(), options, arguments).await?;
        Ok(())
    }

    /// Has the queue get what is published with this key to an exchange, and says to which.
    pub(crate) async fn bind(&self, channel: &Channel, key: &str) -> Result<String> {
        let exchange = format!("{}.exchange", self.prefix);
        let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
        let none = FieldTable::default;
        let name = || exchange.as_str().into();
        channel.exchange_declare(name(), ExchangeKind::Topic, options, none()).await?;
        let bind = QueueBindOptions::default();
        channel.queue_bind(self.queue().into(), name(), key.into(), bind, none()).await?;
        Ok(exchange)
    }

    /// Deletes the exchange.
    pub(crate) async fn unbind(&self, channel: &Channel, exchange: &str) -> Result<()> {
        let options = ExchangeDeleteOptions::default();
        Ok(channel.exchange_delete(exchange.into(), options).await?)
    }

    /// Deletes the queue.
    pub(crate) async fn delete(&self) -> Result<()> {
        let (connection, channel) = self.channel().await?;
        channel.queue_delete(self.queue().into(), QueueDeleteOptions::default()).await?;
        Ok(connection.close(200, "done".into()).await?)
    }
}

/// What an event of the bus has beside its arguments.
pub(crate) fn event_properties() -> BasicProperties {
    let text = |text: &str| AMQPValue::LongString(text.into());
    let mut headers = FieldTable::default();
    headers.insert("lightbus-api".into(), text("bench"));
    headers.insert("lightbus-event".into(), text("changed"));
    headers.insert("lightbus-version".into(), AMQPValue::LongLongInt(1));
    headers.insert("lightbus-time".into(), AMQPValue::LongLongInt(1_700_000_000_000));
    BasicProperties::default()
        .with_content_type("application/json".into())
        .with_delivery_mode(2)
        .with_message_id("0123456789abcdef0123456789abcdef-0".into())
        .with_timestamp(1_700_000_000)
        .with_headers(headers)
}
