//! Where messages are in Redis: the keys of an API, what they hold, and how to look at them.

use std::time::Duration;

use lightbus_core::{
    Result,
    transport::{Consumer, Group, Location},
};
use redis::{Cmd, Value};

use crate::{client::Client, error::Sent, value};

/// Sends a command, and returns the server's refusal as an answer.
pub(crate) async fn ask(client: &Client, command: &Cmd) -> Result<Result<Value, String>> {
    let link = client.shared().await?;
    match link.command(command).await {
        Ok(value) => Ok(Ok(value)),
        Err(error) if error.is_io_error() || error.is_timeout() => {
            Err(client.explain(&link, error, Sent::Harmless))
        }
        Err(error) => Ok(Err(error.to_string())),
    }
}

pub(crate) fn command(words: &[&str]) -> Cmd {
    let mut command = Cmd::new();
    for word in words {
        command.arg(word);
    }
    command
}

async fn number(client: &Client, words: &[&str]) -> Result<Option<u64>> {
    let answer = ask(client, &command(words)).await?;
    let number = answer.ok().as_ref().and_then(value::int);
    Ok(number.and_then(|number| u64::try_from(number).ok()))
}

/// Quotes a word for a shell.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Locates a list of calls.
pub(crate) async fn queue(client: &Client, key: &str) -> Result<Location> {
    let mut location = Location::new("calls that wait for a worker (a list)", key);
    location.messages = number(client, &["LLEN", key]).await?;
    location.look = vec![format!("redis-cli LRANGE {} 0 9", quoted(key))];
    Ok(location)
}

/// Locates the key of a schema.
pub(crate) async fn document(client: &Client, key: &str) -> Result<Location> {
    let mut location = Location::new("the schema (a string that expires)", key);
    location.messages = number(client, &["EXISTS", key]).await?;
    location.look = vec![format!("redis-cli GET {0}; redis-cli PTTL {0}", quoted(key))];
    Ok(location)
}

/// Locates a stream with its groups.
pub(crate) async fn stream(client: &Client, key: &str, groups: Vec<Group>) -> Result<Location> {
    let mut location = Location::new("events (a stream)", key);
    location.messages = number(client, &["XLEN", key]).await?;
    let name = quoted(key);
    location.look = vec![
        format!("redis-cli XREVRANGE {name} + - COUNT 10"),
        format!("redis-cli XINFO GROUPS {name}"),
    ];
    for mut group in groups {
        group.consumers = consumers(client, key, &group.name).await?;
        location.look.push(format!("redis-cli XPENDING {name} {} - + 10", quoted(&group.name)));
        location.groups.push(group);
    }
    Ok(location)
}

async fn consumers(client: &Client, key: &str, group: &str) -> Result<Vec<Consumer>> {
    let answer = ask(client, &command(&["XINFO", "CONSUMERS", key, group])).await?;
    let infos = answer.ok().and_then(value::items).unwrap_or_default();
    let mut consumers = Vec::new();
    for info in infos.into_iter().filter_map(value::pairs) {
        let Some(name) = value::get(&info, "name").and_then(value::text) else { continue };
        let number = |key| {
            let number = value::get(&info, key).and_then(value::int).unwrap_or(0);
            u64::try_from(number).unwrap_or(0)
        };
        let pending = number("pending");
        let oldest = if pending > 0 { oldest(client, key, group, name).await? } else { None };
        let idle = Duration::from_millis(number("idle"));
        consumers.push(Consumer::new(name, pending, idle, oldest));
    }
    Ok(consumers)
}

/// Returns how long a consumer has held its oldest entry.
async fn oldest(
    client: &Client,
    key: &str,
    group: &str,
    consumer: &str,
) -> Result<Option<Duration>> {
    let words = ["XPENDING", key, group, "-", "+", "1", consumer];
    let answer = ask(client, &command(&words)).await?;
    let first = answer.ok().and_then(value::items).and_then(|entries| entries.into_iter().next());
    let idle = first.and_then(value::items).and_then(|entry| entry.get(2).and_then(value::int));
    Ok(idle.and_then(|idle| u64::try_from(idle).ok()).map(Duration::from_millis))
}
