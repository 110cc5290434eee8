//! How far a group is behind.

use lightbus_core::{Name, Result, transport::Lag};
use redis::Value;

use super::{
    entry::{EntryId, RawEntry},
    group,
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
        lag.waiting += match info.lag {
            Some(waiting) => waiting,
            None => count_after(client, stream, info.last_delivered).await?,
        };
    }
    Ok(lag)
}

/// Counts the entries after `last`. Redis does not know the number before version 7, or if entries were
/// deleted.
async fn count_after(client: &Client, stream: &str, last: EntryId) -> Result<u64> {
    let (mut count, mut last) = (0, last);
    loop {
        let mut range = redis::cmd("XRANGE");
        range.arg(stream).arg(format!("({last}")).arg("+").arg("COUNT").arg(LAG_PAGE);
        let answer = client.command(&range, Sent::Harmless).await?;
        let entries = value::items(answer).ok_or_else(|| odd_answer("XRANGE", &Value::Nil))?;
        count += entries.len() as u64;
        match entries.into_iter().filter_map(RawEntry::new).last() {
            Some(entry) if entry.id > last => last = entry.id,
            _ => return Ok(count),
        }
    }
}
