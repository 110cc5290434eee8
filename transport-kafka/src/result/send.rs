//! Sending results to the partitions that their callers read.

use lightbus_core::{Name, Result, ResultMessage, ReturnPath};

use super::{ReplyPath, codec};
use crate::client::Client;

/// Sends a result, if its return path leads to `topic`.
pub(super) async fn send(
    client: &Client,
    topic: &Name,
    to: &ReturnPath,
    result: &ResultMessage,
) -> Result<()> {
    let path = ReplyPath::parse(to, topic)?;
    client.send(vec![codec::outgoing(&path, result)]).await.map(drop)
}
