//! Results as records: the key is the call's id, the value is the result or the error.

use bytes::Bytes;
use lightbus_core::{Name, Result, ResultMessage};
use rdkafka::{Message, message::OwnedHeaders};

use super::ReplyPath;
use crate::{
    header::{self, Found},
    produce::Outgoing,
    wire,
};

/// The record of a result.
pub(crate) fn outgoing(to: &ReplyPath, result: &ResultMessage) -> Outgoing {
    let mut headers = header::add(OwnedHeaders::new_with_capacity(2), header::ID, &result.id);
    let payload = match &result.body {
        Ok(value) => value.to_vec(),
        Err(error) => {
            headers = header::add(headers, header::ERROR, "1");
            wire::encode_error(error)
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

/// Reads the record of a result.
pub(super) fn read<M: Message>(record: &M) -> Result<ResultMessage> {
    let rpc_id = record
        .key()
        .and_then(|key| std::str::from_utf8(key).ok())
        .filter(|key| !key.is_empty())
        .ok_or_else(|| wire::malformed("its key is no id of a call"))?;
    let found = Found::read(record, [header::ID, header::ERROR]);
    let payload = Bytes::copy_from_slice(record.payload().unwrap_or_default());
    let body = if found.get(header::ERROR).is_some() {
        Err(wire::decode_error(&payload)?)
    } else {
        wire::check_json(&payload)?;
        Ok(payload)
    };
    Ok(ResultMessage {
        id: found.get(header::ID).unwrap_or_default().into(),
        rpc_id: rpc_id.into(),
        headers: found.others,
        body,
    })
}
