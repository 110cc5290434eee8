//! Results as records: the call's id as the key, the result or the error as the value.

use bytes::Bytes;
use lightbus_core::{Name, Result, ResultMessage, json};
use rdkafka::{Message, message::OwnedHeaders};
use serde_json::value::RawValue;

use super::ReplyPath;
use crate::{
    header::{self, Found},
    producer::Outgoing,
};

/// Encodes a result.
pub(crate) fn outgoing(to: &ReplyPath, result: &ResultMessage) -> Outgoing {
    let mut headers = header::add(OwnedHeaders::new_with_capacity(2), header::ID, &result.id);
    let payload = match &result.body {
        Ok(value) => value.to_vec(),
        Err(error) => {
            headers = header::add(headers, header::ERROR, "1");
            json::encode_remote_error(error)
        }
    };
    Outgoing {
        topic: Name::clone(&to.topic),
        partition: Some(to.partition),
        key: Some(Name::clone(&result.rpc_id)),
        payload: Some(payload),
        headers: Some(header::add_all(headers, &result.headers, "")),
    }
}

/// Returns the id of the call that a record answers, if it has one.
pub(super) fn answered_call<M: Message>(record: &M) -> Option<&str> {
    let id = record.key().and_then(|key| std::str::from_utf8(key).ok());
    id.filter(|id| !id.is_empty())
}

/// Decodes a result.
pub(super) fn read<M: Message>(record: &M) -> Result<ResultMessage> {
    let rpc_id =
        answered_call(record).ok_or_else(|| json::malformed("its key is not the id of a call"))?;
    let found = Found::read(record, [header::ID, header::ERROR]);
    let payload = Bytes::copy_from_slice(record.payload().unwrap_or_default());
    let body = if found.get(header::ERROR).is_some() {
        Err(json::decode_remote_error(&payload)?)
    } else {
        json::parse::<&RawValue>(&payload)?;
        Ok(payload)
    };
    Ok(ResultMessage {
        id: found.get(header::ID).unwrap_or_default().into(),
        rpc_id: rpc_id.into(),
        headers: found.others,
        body,
    })
}
