//! Results as messages: ids in properties, the value or the error in the body.

use bytes::Bytes;
use lapin::BasicProperties;
use lightbus_core::{Name, RemoteError, Result, ResultMessage};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{
    header::{decode_headers, encode_headers, filled},
    json::{malformed, parse, slice},
    topology::short,
};

/// The prefix of a return path; the rest names a channel.
pub(crate) const RETURN_PREFIX: &str = "amq.rabbitmq.reply-to.";

/// The type of a result that is an error.
const ERROR: &str = "error";

/// An error as the body of a result.
#[derive(Serialize, Deserialize)]
struct ErrorDocument<'a> {
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    detail: Option<&'a RawValue>,
}

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
            let document = ErrorDocument {
                message: error.message.clone(),
                trace: error.trace.clone(),
                name: error.name.as_deref().map(str::to_owned),
                // A detail that is not JSON would make the document invalid.
                detail: error
                    .detail
                    .as_deref()
                    .and_then(|detail| serde_json::from_slice(detail).ok()),
            };
            let body = lightbus_core::codec::encode(&document)?;
            Ok((properties.with_type(ERROR.into()), body))
        }
    }
}

/// Decodes a result.
pub(crate) fn decode_result(properties: &BasicProperties, body: Bytes) -> Result<ResultMessage> {
    let rpc_id = filled(properties.correlation_id())
        .ok_or_else(|| malformed("it does not say which call it answers"))?;
    let headers = properties.headers().as_ref().map(decode_headers).unwrap_or_default();
    let is_error = filled(properties.kind()) == Some(ERROR);
    let body = if is_error {
        let document: ErrorDocument<'_> = parse(&body)?;
        Err(RemoteError {
            message: document.message,
            trace: document.trace,
            name: document.name.map(Name::from),
            detail: document.detail.map(|detail| slice(&body, detail)),
        })
    } else {
        Ok(body)
    };
    Ok(ResultMessage {
        id: filled(properties.message_id()).unwrap_or_default().into(),
        rpc_id: rpc_id.into(),
        headers,
        body,
    })
}
