//! Consumer groups: made, made again when they vanish, and cleared of what is long dead.

use std::time::Duration;

use lightbus_core::{Result, transport::Start};
use redis::{Pipeline, Value};

use super::entry::EntryId;
use crate::{
    client::Client,
    error::{Sent, from_redis, is_busy_group, is_missing_group},
    link, value,
};

/// Removes a group if it has no consumer and nothing pending, looked at and done in one step.
const DESTROY_IF_EMPTY: &str = "\
for _, group in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  local is = {}
  for i = 1, #group, 2 do is[group[i]] = group[i + 1] end
  if is['name'] == ARGV[1] and is['consumers'] == 0 and is['pending'] == 0 then
    return redis.call('XGROUP', 'DESTROY', KEYS[1], ARGV[1])
  end
end
return 0";

/// What `XINFO GROUPS` says of a group.
pub(super) struct GroupInfo {
    pub(super) name: String,
    pub(super) pending: u64,
    pub(super) last_delivered: EntryId,
    /// How many entries are waiting, where Redis knows.
    pub(super) lag: Option<u64>,
}

/// Makes the group, if it is new, and its consumer: at once, because Python's Lightbus destroys
/// groups without any. Gives where the group stands.
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

/// Makes a group again that has vanished: where this process last was, or at the beginning of what
/// is a new stream. Which of both it is cannot always be told, and a new stream may use ids again:
/// so the last millisecond is read again, and events of it may come twice.
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
    tracing::warn!(stream, group, stream_exists = exists, %from, "a consumer group had vanished and was made again");
    Ok(())
}

/// Removes a group, if there is one.
pub(super) async fn destroy(client: &Client, stream: &str, group: &str) -> Result<()> {
    // A stream that is not there would be an error.
    if list(client, stream).await?.iter().any(|info| info.name == group) {
        let mut destroy = redis::cmd("XGROUP");
        destroy.arg("DESTROY").arg(stream).arg(group);
        client.command(&destroy, Sent::Harmless).await?;
    }
    Ok(())
}

/// The groups of a stream; none if there is no stream.
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

/// Removes consumers that have been idle for `ttl` and have nothing pending, and then groups that
/// lost their last consumer by it. Groups that never had one are left alone: they were just made.
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
                "a consumer that was long idle was removed"
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

/// The position of a new group, as `XGROUP CREATE` takes it.
pub(super) fn position(start: Start) -> String {
    match start {
        Start::New => "$".to_owned(),
        Start::Earliest => "0".to_owned(),
        Start::Since(time) => EntryId::before(time).to_string(),
    }
}
