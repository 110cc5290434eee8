//! Calls and results as bytes: the least that the protocol's messages could be.
//!
//! A call is its id (16 bytes), the length of its return key (1), the return key, the payload. A
//! result is the call's id, whether it is an error (1), the payload.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::Result;

const ID: usize = 16;
const HEAD: usize = ID + 1;

/// The id of a call: the process's part and a number.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) struct CallId([u8; ID]);

impl CallId {
    /// The number within the process.
    pub(crate) fn number(self) -> u64 {
        let [.., a, b, c, d, e, f, g, h] = self.0;
        u64::from_be_bytes([a, b, c, d, e, f, g, h])
    }

    fn parse(frame: &[u8]) -> Result<Self> {
        let id = frame.first_chunk().ok_or("a frame without an id")?;
        Ok(Self(*id))
    }

    /// The key that exists as long as the call is waited for.
    pub(crate) fn expiry_key(self) -> String {
        let mut key = String::with_capacity(15 + 36);
        key.push_str("rpc_expiry_key:");
        let [a, b] = [u128::from_be_bytes(self.0) >> 64, u128::from_be_bytes(self.0)]
            .map(|half| half as u64);
        // The form of a UUID: it is as long as the bus's ids, which the broker has to hash.
        let _ = write!(
            key,
            "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
            a >> 32,
            (a >> 16) & 0xffff,
            a & 0xffff,
            b >> 48,
            b & 0xffff_ffff_ffff
        );
        key
    }
}

/// Gives out ids.
#[derive(Debug)]
pub(crate) struct Ids {
    process: u64,
    next: AtomicU64,
}

impl Ids {
    pub(crate) fn new() -> Self {
        let nanos =
            SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64);
        Self { process: nanos ^ (u64::from(std::process::id()) << 48), next: AtomicU64::new(0) }
    }

    pub(crate) fn next(&self) -> CallId {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        CallId(((u128::from(self.process) << 64) | u128::from(number)).to_be_bytes())
    }
}

/// A call, read by the server.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    pub(crate) id: CallId,
    pub(crate) return_key: &'a [u8],
    pub(crate) payload: &'a [u8],
}

impl<'a> Call<'a> {
    pub(crate) fn parse(frame: &'a [u8]) -> Result<Self> {
        let id = CallId::parse(frame)?;
        let length = *frame.get(ID).ok_or("a call without a return key")?;
        let (return_key, payload) = frame[HEAD..]
            .split_at_checked(usize::from(length))
            .ok_or("a call cut off in its return key")?;
        Ok(Self { id, return_key, payload })
    }
}

/// A call to send.
pub(crate) fn call(id: CallId, return_key: &str, payload: &[u8]) -> Result<Vec<u8>> {
    let length = u8::try_from(return_key.len())?;
    let mut frame = Vec::with_capacity(HEAD + return_key.len() + payload.len());
    frame.extend_from_slice(&id.0);
    frame.push(length);
    frame.extend_from_slice(return_key.as_bytes());
    frame.extend_from_slice(payload);
    Ok(frame)
}

/// The result of a call, which is its own payload again.
pub(crate) fn result(call: &Call<'_>) -> Vec<u8> {
    let mut frame = Vec::with_capacity(HEAD + call.payload.len());
    frame.extend_from_slice(&call.id.0);
    frame.push(0);
    frame.extend_from_slice(call.payload);
    frame
}

/// Which call a result belongs to.
pub(crate) fn result_id(frame: &[u8]) -> Result<CallId> {
    CallId::parse(frame)
}

/// Which call a result belongs to, and that it is whole.
pub(crate) fn parse_result(frame: &[u8], payload_bytes: usize) -> Result<CallId> {
    if frame.len() != HEAD + payload_bytes {
        return Err(format!("a result of {} bytes", frame.len()).into());
    }
    result_id(frame)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_read_back() -> Result<()> {
        let ids = Ids::new();
        ids.next();
        let id = ids.next();
        let frame = call(id, "results", b"payload")?;
        let parsed = Call::parse(&frame)?;
        assert_eq!(
            (parsed.id, parsed.return_key, parsed.payload),
            (id, &b"results"[..], &b"payload"[..])
        );
        assert_eq!(parse_result(&result(&parsed), 7)?, id);
        assert_eq!(id.number(), 1);
        assert!(Call::parse(&frame[..20]).is_err());
        Ok(())
    }

    #[test]
    fn expiry_keys_are_as_long_as_the_protocols() {
        let key = CallId(0x85bad5ea_e701_11f1_9aa8_02fc00000001_u128.to_be_bytes()).expiry_key();
        assert_eq!(key, "rpc_expiry_key:85bad5ea-e701-11f1-9aa8-02fc00000001");
    }
}
