//! Publishing results to the channels of their callers.

use lightbus_core::{Result, ResultMessage, ReturnPath, json};

use super::codec::{RETURN_PREFIX, encode_result};
use crate::{
    publisher::{Message, Publisher},
    topology::short,
};

/// Publishes a result.
pub(super) async fn send(
    publisher: &Publisher,
    to: &ReturnPath,
    result: &ResultMessage,
) -> Result<()> {
    if to.as_str().strip_prefix(RETURN_PREFIX).is_none_or(str::is_empty) {
        return Err(json::malformed("the return path does not belong to the RabbitMQ transport")
            .with("return path", json::excerpt(to.as_str().as_bytes())));
    }
    let (properties, body) = encode_result(result)?;
    let key = short("the return path", to.as_str())?;
    let channel = publisher.channel().await?;
    // Not mandatory: a caller that has given up is no error.
    let message = Message { exchange: "".into(), key, mandatory: false, properties, body };
    publisher.publish(&channel, message, publisher.deadline()).await.map(drop)
}
