//! Calls as records: arguments in the value, everything else in headers.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use lightbus_core::{Headers, Name, ReturnPath, RpcMessage, json, time::deadline_after};
use rdkafka::{Message, message::OwnedHeaders};

use crate::{
    header::{self, Found},
    producer::Outgoing,
    reader::time_of,
};

/// Encodes a call. `left` is the time until its deadline.
pub(super) fn outgoing(
    topic: &Name,
    partition: i32,
    call: &RpcMessage,
    left: Duration,
) -> Outgoing {
    let mut headers = OwnedHeaders::new_with_capacity(6);
    for (name, value) in [
        (header::ID, &*call.id),
        (header::API, &*call.api),
        (header::PROCEDURE, &*call.procedure),
        (header::RETURN_PATH, call.return_path.as_str()),
        (Headers::TIME_LEFT_MS, &*left.as_millis().to_string()),
    ] {
        headers = header::add(headers, name, value);
    }
    Outgoing {
        topic: Name::clone(topic),
        partition: Some(partition),
        key: None,
        payload: Some(json::encode_arguments(&call.fields)),
        headers: Some(header::add_all(headers, &call.headers, Headers::TIME_LEFT_MS)),
    }
}

/// What a record turned out to be.
pub(super) enum Read {
    /// A call that has not expired.
    Call(Box<RpcMessage>),
    /// Its deadline has passed.
    Expired,
    /// Why it cannot be read, and the id and return path of its caller if those can be read.
    Malformed(String, Option<(Name, ReturnPath)>),
}

/// Decodes a call of this API. `usual` is the time limit of a call that carries none.
pub(super) fn read<M: Message>(record: &M, api: &Name, usual: Duration) -> Read {
    let found = Found::read(
        record,
        [header::ID, header::API, header::PROCEDURE, header::RETURN_PATH, Headers::TIME_LEFT_MS],
    );
    let left = found
        .get(Headers::TIME_LEFT_MS)
        .and_then(|text| text.parse().ok())
        .map_or(usual, Duration::from_millis);
    // By the caller's clock: the record may have waited for its broker as well.
    let age = SystemTime::now().duration_since(time_of(record)).unwrap_or_default();
    let Some(left) = left.checked_sub(age).filter(|left| !left.is_zero()) else {
        return Read::Expired;
    };
    let names = || -> Result<_, String> {
        Ok((
            Name::from(found.need(header::ID)?),
            Name::from(found.need(header::PROCEDURE)?),
            ReturnPath::new(found.need(header::RETURN_PATH)?),
        ))
    };
    let (id, procedure, return_path) = match names() {
        Ok(names) => names,
        Err(reason) => return Read::Malformed(reason, None),
    };
    if let Some(named) = found.get(header::API)
        && let Err(error) = RpcMessage::check_api(named, api)
    {
        return Read::Malformed(error.message().to_owned(), Some((id, return_path)));
    }
    let payload = Bytes::copy_from_slice(record.payload().unwrap_or_default());
    let fields = match json::decode_arguments(&payload) {
        Ok(fields) => fields,
        Err(error) => {
            return Read::Malformed(error.message().to_owned(), Some((id, return_path)));
        }
    };
    Read::Call(Box::new(RpcMessage {
        id,
        api: Name::clone(api),
        procedure,
        fields,
        headers: found.others,
        return_path,
        deadline: deadline_after(left),
    }))
}
