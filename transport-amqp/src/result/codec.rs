//! Results as messages: ids in properties, the value or the error in the body.

use bytes::Bytes;
use lapin::BasicProperties;
use lightbus_core::{Result, ResultMessage, json};

use crate::{
    header::{decode_headers, encode_headers, filled},
    topology::short,
};

/// The prefix of a return path; the rest names a channel.
pub(crate) const RETURN_PREFIX: &str = "amq.rabbitmq.reply-to.";

/// The type of a result that is an error.
const ERROR: &str = "error";

/// Encodes a result.
pub(crate) fn encode_result(result: &ResultMessage) -> Result<(BasicProperties, Bytes)> {
    let mut properties = BasicProperties::default()
        .with_content_type("application/json".into())
        .with_message_id(short("the id of a result", &result.id)?)
        .with_correlation_id(short("the id of a call", &result.rpc_id)?);
    if !result.headers.is_empty() {
        properties = properties.with_headers(encode_headers(&result.headers));
    }
    match &result.body {
        Ok(value) => Ok((properties, value.clone())),
        Err(error) => {
            let body = json::encode_remote_error(error).into();
            Ok((properties.with_type(ERROR.into()), body))
        }
    }
}

/// Returns the id of the call that a result answers, if it has one.
pub(crate) fn answered_call(properties: &BasicProperties) -> Option<&str> {
    filled(properties.correlation_id())
}

/// Decodes a result.
pub(crate) fn decode_result(properties: &BasicProperties, body: Bytes) -> Result<ResultMessage> {
    let rpc_id = answered_call(properties)
        .ok_or_else(|| json::malformed("it does not say which call it answers"))?;
    let headers = properties.headers().as_ref().map(decode_headers).unwrap_or_default();
    let is_error = filled(properties.kind()) == Some(ERROR);
    let body = if is_error { Err(json::decode_remote_error(&body)?) } else { Ok(body) };
    Ok(ResultMessage {
        id: filled(properties.message_id()).unwrap_or_default().into(),
        rpc_id: rpc_id.into(),
        headers,
        body,
    })
}
