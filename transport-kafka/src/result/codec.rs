//! Results as records: the call's id as the key, the result or the error as the value.

use bytes::Bytes;
use lightbus_core::{Name, RemoteError, Result, ResultMessage};
use rdkafka::{Message, message::OwnedHeaders};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::ReplyPath;
use crate::{
    header::{self, Found},
    json,
    producer::Outgoing,
};

/// Encodes a result.
pub(crate) fn outgoing(to: &ReplyPath, result: &ResultMessage) -> Outgoing {
    let mut headers = header::add(OwnedHeaders::new_with_capacity(2), header::ID, &result.id);
    let payload = match &result.body {
        Ok(value) => value.to_vec(),
        Err(error) => {
            headers = header::add(headers, header::ERROR, "1");
            encode_error(error)
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

/// Decodes a result.
pub(super) fn read<M: Message>(record: &M) -> Result<ResultMessage> {
    let rpc_id = record
        .key()
        .and_then(|key| std::str::from_utf8(key).ok())
        .filter(|key| !key.is_empty())
        .ok_or_else(|| json::malformed("its key is not the id of a call"))?;
    let found = Found::read(record, [header::ID, header::ERROR]);
    let payload = Bytes::copy_from_slice(record.payload().unwrap_or_default());
    let body = if found.get(header::ERROR).is_some() {
        Err(decode_error(&payload)?)
    } else {
        json::check_json(&payload)?;
        Ok(payload)
    };
    Ok(ResultMessage {
        id: found.get(header::ID).unwrap_or_default().into(),
        rpc_id: rpc_id.into(),
        headers: found.others,
        body,
    })
}

/// Encodes an error.
fn encode_error(error: &RemoteError) -> Vec<u8> {
    let mut out = Vec::with_capacity(64 + error.message.len());
    out.extend_from_slice(b"{\"message\":");
    json::string(&mut out, &error.message);
    if let Some(trace) = &error.trace {
        out.extend_from_slice(b",\"trace\":");
        json::string(&mut out, trace);
    }
    if let Some(name) = &error.name {
        out.extend_from_slice(b",\"name\":");
        json::string(&mut out, name);
    }
    if let Some(detail) = &error.detail {
        out.extend_from_slice(b",\"detail\":");
        out.extend_from_slice(detail);
    }
    out.push(b'}');
    out
}

/// Decodes an error.
fn decode_error(raw: &Bytes) -> Result<RemoteError> {
    #[derive(Deserialize)]
    struct Document<'a> {
        message: String,
        #[serde(default)]
        trace: Option<String>,
        #[serde(default)]
        name: Option<String>,
        #[serde(borrow, default)]
        detail: Option<&'a RawValue>,
    }
    let document: Document<'_> = json::parse(raw)?;
    Ok(RemoteError {
        message: document.message,
        trace: document.trace,
        name: document.name.map(Name::from),
        detail: document.detail.map(|detail| raw.slice_ref(detail.get().as_bytes())),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn an_error_reads_back_as_it_was_written() {
        let sent = RemoteError {
            message: "no \"way\"".into(),
            trace: Some("line 1\nline 2".into()),
            name: Some("Refused".into()),
            detail: Some(Bytes::from_static(b"{\"code\":1}")),
        };
        assert_eq!(decode_error(&Bytes::from(encode_error(&sent))).unwrap(), sent);
        let plain = RemoteError { message: "no".into(), ..RemoteError::default() };
        assert_eq!(decode_error(&Bytes::from(encode_error(&plain))).unwrap(), plain);
    }

    #[test]
    fn no_cut_of_an_error_panics() {
        let error = RemoteError { message: "a\u{e9}".into(), ..RemoteError::default() };
        let whole = encode_error(&error);
        for end in 0..whole.len() {
            assert!(decode_error(&Bytes::copy_from_slice(&whole[..end])).is_err());
        }
    }
}
