//! RPC over Redis lists: a queue of calls, a key for results, a key that says that a call is
//! still waited for.

pub(crate) mod batch;
pub(crate) mod frame;
pub(crate) mod naive;

/// Seconds after which a call is not waited for any more.
const EXPIRY_SECONDS: u64 = 5;

/// Seconds after which results that nobody takes vanish.
const RESULT_TTL_SECONDS: u64 = 60;

/// The name of the queue of calls.
const QUEUE: &str = "rpc_queue";
