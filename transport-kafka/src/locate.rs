//! Where messages are in Kafka: topics, what they hold, which groups read them, and how to look at them.

use std::sync::Arc;

use lightbus_core::{
    Name, Result,
    transport::{Group, Location},
};
use rdkafka::consumer::Consumer as _;

use crate::{
    client::{Client, blocking},
    error::{Sent, from_kafka, retry_transient},
    event::behind,
    reader::Reader,
};

/// The most groups whose position is read.
const MOST_GROUPS: usize = 200;

/// Which groups may read from a topic.
pub(crate) enum Readers {
    /// None.
    None,
    /// This group; the second is the prefix of its name on Kafka.
    One(String, String),
    /// Any with this prefix.
    Any(String),
}

/// Quotes a word for a shell.
pub(crate) fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Locates a topic, with the groups that read it. Of calls, only those count that no worker has taken.
pub(crate) async fn topic(
    client: &Arc<Client>,
    what: &str,
    name: &Name,
    readers: Readers,
) -> Result<Location> {
    let broker = quoted(client.broker());
    let Some(count) = client.existing(name).await? else {
        return Ok(Location::new(format!("{what}, not created yet"), &**name));
    };
    let mut location = Location::new(format!("{what}, {count} partitions"), &**name);
    let words = format!("--bootstrap-server {broker} --topic {}", quoted(name));
    location.look = vec![
        format!("kafka-topics.sh --describe {words}"),
        format!(
            "kafka-console-consumer.sh {words} --from-beginning --max-messages 10 --property print.headers=true --property print.key=true"
        ),
    ];
    let (client, name) = (Arc::clone(client), Name::clone(name));
    let prefix = match &readers {
        Readers::None => String::new(),
        Readers::One(_, prefix) | Readers::Any(prefix) => prefix.clone(),
    };
    blocking(move || {
        location.messages = Some(held(&client, &name, count)?);
        location.groups = match readers {
            Readers::None => Vec::new(),
            Readers::One(group, _) => {
                let found = group_of(&client, &group, &prefix, &name, count)?;
                if let Some(waiting) = found.as_ref().and_then(|found| found.waiting) {
                    location.messages = Some(waiting);
                }
                found.into_iter().collect()
            }
            Readers::Any(_) => groups(&client, &prefix, &name, count)?,
        };
        for group in &location.groups {
            location.look.push(format!(
                "kafka-consumer-groups.sh --bootstrap-server {broker} --describe --group {}",
                quoted(&format!("{prefix}{}", group.name))
            ));
        }
        Ok(location)
    })
    .await?
}

/// Returns how many records a topic has, gaps included. Blocks.
fn held(client: &Client, topic: &str, count: i32) -> Result<u64> {
    let reader = client.reader("lightbus.readers")?;
    let mut held = 0;
    for partition in 0..count {
        let (low, high) = reader.bounds(topic, partition)?;
        held += u64::try_from(high - low).unwrap_or(0);
    }
    Ok(held)
}

/// Returns the groups that have read this topic. Blocks.
fn groups(client: &Client, prefix: &str, topic: &Name, count: i32) -> Result<Vec<Group>> {
    let reader = client.reader("lightbus.readers")?;
    let mut found = Vec::new();
    for name in names(&reader, prefix)?.into_iter().take(MOST_GROUPS) {
        found.extend(group_of(client, &name, prefix, topic, count)?);
    }
    Ok(found)
}

fn names(reader: &Reader, prefix: &str) -> Result<Vec<String>> {
    let list =
        retry_transient(reader.timeout, || reader.consumer.fetch_group_list(None, reader.timeout))
            .map_err(|error| from_kafka(error, &reader.broker, Sent::Harmless))?;
    let all = list.groups().iter().map(|group| group.name().to_owned());
    let mut names: Vec<_> = all.filter(|name| name.starts_with(prefix)).collect();
    names.sort_unstable();
    Ok(names)
}

/// Returns a group under its name without the prefix, if it has read this topic. Blocks.
fn group_of(
    client: &Client,
    name: &str,
    prefix: &str,
    topic: &Name,
    count: i32,
) -> Result<Option<Group>> {
    let partitions: Vec<_> = (0..count).map(|partition| (Name::clone(topic), partition)).collect();
    let lag = behind(&client.reader(name)?, &partitions)?;
    let known = name.strip_prefix(prefix).unwrap_or(name);
    Ok(lag.map(|lag| Group::new(known, Some(lag.waiting), lag.pending)))
}
