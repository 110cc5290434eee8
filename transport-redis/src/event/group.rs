//! Consumer groups: created, restored when they vanish, and cleared of dead consumers.

use std::time::Duration;

use lightbus_core::{Result, transport::Start};
use redis::{Pipeline, Value};

use super::entry::EntryId;
use crate::{
    client::Client,
    error::{Sent, from_redis, is_busy_group, is_missing_group},
    link, value,
};

/// Removes a group if it has no consumer and nothing pending, atomically.
const DESTROY_IF_EMPTY: &str = "\
for _, group in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  local is = {}
  for i = 1, #group, 2 do is[group[i]] = group[i + 1] end
  if is['name'] == ARGV[1] and is['consumers'] == 0 and is['pending'] == 0 then
    return redis.call('XGROUP', 'DESTROY', KEYS[1], ARGV[1])
  end
end
return 0";

/// Removes a consumer, if it holds nothing and the group has another one, atomically: a process of the
/// same name may just have read something. If it waits for events, its next read creates the consumer again.
const LEAVE: &str = "\
local consumers = redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])
if #consumers < 2 then return 0 end
for _, consumer in ipairs(consumers) do
  local is = {}
  for i = 1, #consumer, 2 do is[consumer[i]] = consumer[i + 1] end
  if is['name'] == ARGV[2] and is['pending'] == 0 then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[2])
    return 1
  end
end
return 0";

/// A group in `XINFO GROUPS`.
pub(super) struct GroupInfo {
    pub(super) name: String,
    pub(super) pending: u64,
    pub(super) last_delivered: EntryId,
    /// How many entries wait, if Redis knows.
    pub(super) lag: Option<u64>,
}

/// Creates the group, if it is new, and its consumer, at once: Python's Lightbus destroys groups without
/// consumers. Returns the group's position.
pub(super) async fn ensure(
    client: &Client,
    stream: &str,
    group: &str,
    consumer: &str,
    start: &str,
) -> Result<EntryId> {
    let mut pipeline = Pipeline::with_capacity(3);
    pipeline.cmd("XGROUP").arg("CREATE").arg(stream).arg(group).arg(start).arg("MKSTREAM");
    pipeline.cmd("XGROUP").arg("CREATECONSUMER").arg(stream).arg(group).arg(consumer);
    pipeline.cmd("XINFO").arg("GROUPS").arg(stream);
    let mut answers = client.pipeline(&pipeline, Sent::Harmless).await?.into_iter();
    let explain = |error| from_redis(error, client.broker(), Sent::Harmless);
    match answers.next().map(link::answer) {
        Some(Err(error)) if !is_busy_group(&error) => return Err(explain(error)),
        _ => {}
    }
    if let Some(Err(error)) = answers.next().map(link::answer) {
        return Err(explain(error));
    }
    let groups = answers.next().map(link::answer).transpose().map_err(explain)?;
    Ok(groups
        .map(parse)
        .unwrap_or_default()
        .into_iter()
        .find(|info| info.name == group)
        .map_or(EntryId::ZERO, |info| info.last_delivered))
}

/// Restores a group that has vanished: at the last entry that this process saw, or at the beginning of a
/// new stream. The two cannot always be told apart, because a new stream may reuse ids. So the last
/// millisecond is read again, and its events may be redelivered.
pub(super) async fn restore(
    client: &Client,
    stream: &str,
    group: &str,
    consumer: &str,
    last: EntryId,
) -> Result<()> {
    let mut exists = redis::cmd("EXISTS");
    exists.arg(stream);
    let exists = value::int(&client.command(&exists, Sent::Harmless).await?) == Some(1);
    let start = if exists { last.before_its_millisecond() } else { EntryId::ZERO };
    let from = ensure(client, stream, group, consumer, &start.to_string()).await?;
    tracing::warn!(stream, group, stream_exists = exists, %from, "a consumer group had vanished and was created again");
    Ok(())
}

/// Removes a group, if it exists.
pub(super) async fn destroy(client: &Client, stream: &str, group: &str) -> Result<()> {
    // Destroying a group of a stream that does not exist is an error.
    if list(client, stream).await?.iter().any(|info| info.name == group) {
        let mut destroy = redis::cmd("XGROUP");
        destroy.arg("DESTROY").arg(stream).arg(group);
        client.command(&destroy, Sent::Harmless).await?;
    }
    Ok(())
}

/// Returns the groups of a stream; none if it does not exist.
pub(super) async fn list(client: &Client, stream: &str) -> Result<Vec<GroupInfo>> {
    let mut info = redis::cmd("XINFO");
    info.arg("GROUPS").arg(stream);
    let link = client.shared().await?;
    match link.command(&info).await {
        Ok(answer) => Ok(parse(answer)),
        Err(error) if is_missing_group(&error) => Ok(Vec::new()),
        Err(error) => Err(client.explain(&link, error, Sent::Harmless)),
    }
}

fn parse(groups: Value) -> Vec<GroupInfo> {
    let number = |info: &[(Value, Value)], key| {
        value::get(info, key).and_then(value::int).and_then(|number| u64::try_from(number).ok())
    };
    value::items(groups)
        .unwrap_or_default()
        .into_iter()
        .filter_map(value::pairs)
        .filter_map(|info| {
            Some(GroupInfo {
                name: value::get(&info, "name").and_then(value::text)?.to_owned(),
                pending: number(&info, "pending").unwrap_or(0),
                last_delivered: value::get(&info, "last-delivered-id")
                    .and_then(value::text)
                    .and_then(EntryId::parse)
                    .unwrap_or_default(),
                lag: number(&info, "lag"),
            })
        })
        .collect()
}

/// Removes consumers that have been idle for `ttl` and have nothing pending, and groups that lost their
/// last consumer by it. A group that had none before was just created, and is kept.
pub(super) async fn clean_up(
    client: &Client,
    stream: &str,
    own: (&str, &str),
    ttl: Duration,
) -> Result<()> {
    let (own_group, own_consumer) = own;
    for group in list(client, stream).await? {
        let mut info = redis::cmd("XINFO");
        info.arg("CONSUMERS").arg(stream).arg(&group.name);
        let Ok(consumers) = client.command(&info, Sent::Harmless).await else { continue };
        let mut removed = 0;
        for consumer in value::items(consumers).unwrap_or_default() {
            let Some(consumer) = value::pairs(consumer) else { continue };
            let Some(name) = value::get(&consumer, "name").and_then(value::text) else { continue };
            let idle = value::get(&consumer, "idle").and_then(value::int).unwrap_or(0);
            let pending = value::get(&consumer, "pending").and_then(value::int).unwrap_or(1);
            let long = u128::try_from(idle).unwrap_or(0) >= ttl.as_millis();
            if !long || pending > 0 || (group.name == own_group && name == own_consumer) {
                continue;
            }
            let mut remove = redis::cmd("XGROUP");
            remove.arg("DELCONSUMER").arg(stream).arg(&group.name).arg(name);
            client.command(&remove, Sent::Harmless).await?;
            tracing::info!(
                stream,
                group = group.name,
                consumer = name,
                idle_ms = idle,
                "an idle consumer was removed"
            );
            removed += 1;
        }
        if removed > 0 && group.name != own_group {
            let mut destroy = redis::cmd("EVAL");
            destroy.arg(DESTROY_IF_EMPTY).arg(1).arg(stream).arg(&group.name);
            if value::int(&client.command(&destroy, Sent::Harmless).await?) == Some(1) {
                tracing::info!(
                    stream,
                    group = group.name,
                    "a consumer group without consumers was removed"
                );
            }
        }
    }
    Ok(())
}

/// Removes the consumer of a process that ends in order, and returns whether it did. One that has pending
/// events stays, and so does the last one of a group: Python's Lightbus destroys groups without consumers,
/// and the listener would lose its position.
pub(super) async fn leave(
    client: &Client,
    stream: &str,
    group: &str,
    consumer: &str,
) -> Result<bool> {
    let mut leave = redis::cmd("EVAL");
    leave.arg(LEAVE).arg(1).arg(stream).arg(group).arg(consumer);
    let link = client.shared().await?;
    match link.command(&leave).await {
        Ok(answer) => Ok(value::int(&answer) == Some(1)),
        Err(error) if is_missing_group(&error) => Ok(false),
        Err(error) => Err(client.explain(&link, error, Sent::Harmless)),
    }
}

/// Returns the position of a new group for `XGROUP CREATE`.
pub(super) fn position(start: Start) -> String {
    match start {
        Start::New => "$".to_owned(),
        Start::Earliest => "0".to_owned(),
        Start::Since(time) => EntryId::before(time).to_string(),
    }
}
