//! How far a group is behind.
//!
//! From version 7 on Redis computes it, but wrongly where entries were trimmed or deleted: it counts those
//! that are not there any more, for good. So its figure is taken only where it can be right.

use lightbus_core::{Name, Result, transport::Lag};
use redis::Value;

use super::{
    entry::{EntryId, RawEntry},
    group::{self, GroupInfo},
};
use crate::{
    client::Client,
    error::{Sent, odd_answer},
    value,
};

/// How many entries are counted at once.
const LAG_PAGE: usize = 1000;

/// Returns how far a group is behind in these streams.
pub(super) async fn lag(client: &Client, streams: &[(String, Name)], group: &str) -> Result<Lag> {
    let mut lag = Lag::default();
    for (stream, _) in streams {
        let found = group::list(client, stream).await?.into_iter().find(|info| info.name == group);
        let Some(info) = found else { continue };
        lag.pending += info.pending;
        lag.waiting += match known(client, stream, &info).await? {
            Some(waiting) => waiting,
            None => count_after(client, stream, info.last_delivered).await?,
        };
    }
    Ok(lag)
}

/// Returns how many entries wait for a group, if that is known without counting them.
pub(super) async fn known(client: &Client, stream: &str, info: &GroupInfo) -> Result<Option<u64>> {
    let Some(waiting) = info.lag else { return Ok(None) };
    if waiting == 0 || page_after(client, stream, info.last_delivered, 1).await?.is_empty() {
        return Ok(Some(0));
    }
    let mut length = redis::cmd("XLEN");
    length.arg(stream);
    let length = value::int(&client.command(&length, Sent::Harmless).await?).unwrap_or(0);
    Ok(u64::try_from(length).ok().filter(|length| waiting <= *length).map(|_| waiting))
}

/// Counts the entries after `last`. Redis does not know the number before version 7, or if entries were
/// deleted.
async fn count_after(client: &Client, stream: &str, last: EntryId) -> Result<u64> {
    let (mut count, mut last) = (0, last);
    loop {
        let entries = page_after(client, stream, last, LAG_PAGE).await?;
        count += entries.len() as u64;
        match entries.into_iter().filter_map(RawEntry::new).last() {
            Some(entry) if entry.id > last => last = entry.id,
            _ => return Ok(count),
        }
    }
}

async fn page_after(
    client: &Client,
    stream: &str,
    last: EntryId,
    count: usize,
) -> Result<Vec<Value>> {
    let mut range = redis::cmd("XRANGE");
    range.arg(stream).arg(format!("({last}")).arg("+").arg("COUNT").arg(count);
    let answer = client.command(&range, Sent::Harmless).await?;
    value::items(answer).ok_or_else(|| odd_answer("XRANGE", &Value::Nil))
}
