//! What goes over a connection to a loft: JSON in frames that begin with their length. Each request has
//! a number, and its response the same one; responses come in any order.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio_util::codec::LengthDelimitedCodec;

/// The longest frame, and so about the largest message.
pub(crate) const LONGEST: usize = 16 * 1024 * 1024;

pub(crate) fn codec() -> LengthDelimitedCodec {
    LengthDelimitedCodec::builder().max_frame_length(LONGEST).new_codec()
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Request {
    pub(crate) id: u64,
    pub(crate) ask: Ask,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Response {
    pub(crate) id: u64,
    /// The answer, or why there is none.
    pub(crate) answer: Result<Box<RawValue>, String>,
}

/// What a loft can be asked for. Times are in milliseconds; moments count from 1970.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Ask {
    /// The first request of a connection, with the password.
    Hello(Option<String>),
    /// Answers the number of each message.
    Publish(Vec<Letter>),
    Subscribe {
        channel: String,
        group: String,
        start: From,
    },
    /// Answers [`Delivered`] messages, as soon as there is one, or none after `wait`.
    Fetch {
        channel: String,
        group: String,
        max: usize,
        wait: u64,
        lease: u64,
    },
    Settle {
        channel: String,
        group: String,
        receipts: Vec<u64>,
        fate: Fate,
    },
    /// Deletes a group, and the channel if it was the last one of an empty channel.
    Forget {
        channel: String,
        group: String,
    },
    HasGroup {
        channel: String,
        group: String,
    },
    /// Answers the numbers of messages that wait, and that are taken.
    Lag {
        channel: String,
        group: String,
    },
    /// Answers [`Delivered`] messages, newest first.
    History {
        channel: String,
        before: Option<u64>,
        limit: usize,
    },
    Put {
        store: String,
        key: String,
        value: String,
        ttl: Option<u64>,
    },
    Get {
        store: String,
        key: String,
    },
    Delete {
        store: String,
        key: String,
    },
    Keys {
        store: String,
    },
    Extend {
        store: String,
        key: String,
        ttl: u64,
    },
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Letter {
    pub(crate) channel: String,
    pub(crate) text: String,
    pub(crate) ttl: Option<u64>,
    /// Whether it stays after it was settled, for other groups and for the history.
    pub(crate) keep: bool,
}

/// Where a group begins.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum From {
    New,
    Earliest,
    Since(u64),
}

/// What becomes of a message that was taken.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Fate {
    Done,
    GiveBack,
    /// Stays where it is for another lease.
    Keep {
        lease: u64,
    },
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Delivered {
    pub(crate) receipt: u64,
    pub(crate) number: u64,
    pub(crate) text: String,
    /// When the loft took it, and how long ago that is.
    pub(crate) time: u64,
    pub(crate) age: u64,
    pub(crate) attempt: u32,
}
