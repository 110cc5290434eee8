//! Messages that tests of transports send past a bus, and the options of their transports.

use std::time::Duration;

use lightbus_core::{Arguments, Headers, ReturnPath, RpcMessage};
use serde_json::Value;
use tokio::time::Instant;

/// A call with two arguments, one of them with letters beyond ASCII.
#[must_use]
pub fn call(api: &str, id: &str, return_path: &str, timeout: Duration) -> RpcMessage {
    RpcMessage {
        id: id.into(),
        api: api.into(),
        procedure: "add".into(),
        fields: fields(&[("a", "2"), ("b", "\"é☃\"")]),
        headers: Headers::new(),
        return_path: ReturnPath::new(return_path),
        deadline: Instant::now() + timeout,
    }
}

/// Arguments, of names and JSON.
#[must_use]
pub fn fields(pairs: &[(&str, &str)]) -> Arguments {
    pairs.iter().map(|(name, value)| ((*name).into(), value.as_bytes().to_vec().into())).collect()
}

/// Options with more options.
#[must_use]
pub fn with(options: &Value, more: &Value) -> Value {
    let mut all = options.clone();
    let added = more.as_object().expect("options are an object").clone();
    all.as_object_mut().expect("options are an object").extend(added);
    all
}
