//! Where messages are in RabbitMQ: queues, streams and exchanges by their names, as far as AMQP shows
//! them, and how to look at them.

use lightbus_core::{Error, Result, transport::Location};

use crate::{client::Client, topology};

/// Quotes a word for a shell.
pub(crate) fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

pub(crate) fn vhost(client: &Client) -> String {
    quoted(client.endpoint().uris.first().map_or("/", |uri| uri.vhost.as_str()))
}

/// Returns a permanent error, such as a refusal, as an answer.
pub(crate) fn allowed<T>(asked: Result<T>) -> Result<std::result::Result<T, Error>> {
    match asked {
        Err(error) if error.is_temporary() => Err(error),
        other => Ok(other),
    }
}

/// Locates a queue or a stream.
pub(crate) async fn queue(client: &Client, what: &str, name: &str) -> Result<Location> {
    let link = client.consumes().await?;
    let (what, messages) = match allowed(topology::counts(&link, name).await)? {
        Ok(Some((messages, consumers))) => {
            (format!("{what}, consumers: {consumers}"), Some(messages.into()))
        }
        Ok(None) => (format!("{what}, not declared yet"), None),
        Err(refused) => (format!("{what}, which may not be read: {}", refused.message()), None),
    };
    let mut location = Location::new(what, name);
    location.messages = messages;
    let vhost = vhost(client);
    location.look = vec![
        format!(
            "rabbitmqctl list_queues -p {vhost} name type messages_ready messages_unacknowledged consumers | grep -F {}",
            quoted(name)
        ),
        format!("rabbitmqctl list_consumers -p {vhost} | grep -F {}", quoted(name)),
    ];
    Ok(location)
}

/// Locates the exchange of events.
pub(crate) async fn exchange(client: &Client, name: &str, api: &str) -> Result<Location> {
    const WHAT: &str = "events on their way to the queue of each listener (a topic exchange)";
    let link = client.consumes().await?;
    let what = match allowed(topology::has_exchange(&link, name).await)? {
        Ok(true) => WHAT.to_owned(),
        Ok(false) => format!("{WHAT}, not declared yet"),
        Err(refused) => format!("{WHAT}, which may not be read: {}", refused.message()),
    };
    let mut location = Location::new(what, name);
    let vhost = vhost(client);
    location.look = vec![
        // AMQP does not show bindings.
        format!(
            "rabbitmqctl list_bindings -p {vhost} source_name routing_key destination_name | grep -F {}",
            quoted(&format!("{api}."))
        ),
        format!(
            "rabbitmqctl list_queues -p {vhost} name messages_ready messages_unacknowledged consumers"
        ),
    ];
    Ok(location)
}
