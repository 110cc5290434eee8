//! Dead letters: values without a time to live, in a store for each group.
//!
//! Their keys are the moments at which they were rejected, so that they are in that order: by the clocks
//! of the processes that rejected them. A value holds the event as its message had it.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::{SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{
    super::{
        Broker, Message, Store, random, safe_name,
        shared::Shared,
        wire::{self, Requeued},
    },
    BrokerEventTransport, channel,
};
use crate::{
    Arguments, Error, ErrorKind, EventMessage, Name, Rejection, Result, Retry, codec,
    transport::{DeadLetter, DeadLetters, GroupSpec},
};

/// The most bytes of a reason that are kept.
const LONGEST_REASON: usize = 4096;
/// An event that cannot be read is shown under this argument.
const PAYLOAD: &str = "payload";

/// What becomes a dead letter.
pub(super) struct NewLetter<'a> {
    pub(super) payload: &'a Bytes,
    pub(super) rejection: &'a Rejection,
    pub(super) api: &'a Name,
    /// Which delivery it was; 0 where the broker does not count.
    pub(super) delivery: u32,
    pub(super) native_id: Option<&'a Name>,
    pub(super) time: Option<SystemTime>,
}

/// A dead letter as it is stored.
#[derive(Serialize, Deserialize)]
struct LetterForm {
    v: u32,
    reason: String,
    attempts: u32,
    /// When it was rejected.
    rejected: u64,
    api: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    native_id: Option<String>,
    /// When the broker stored the event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    time: Option<u64>,
    /// The message, or a text if it was not JSON.
    payload: Box<RawValue>,
}

/// The key of a letter that is written now.
pub(super) fn new_key() -> Name {
    static LAST: AtomicU32 = AtomicU32::new(0);
    let micros = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
    // Of one process in one microsecond: in their order, but for one in four billion.
    let number = LAST.fetch_add(1, Ordering::Relaxed);
    let process = random() as u32;
    format!("{micros:016x}{number:08x}{process:08x}").into()
}

fn is_key(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

pub(super) async fn put<B: Broker>(
    shared: &Shared<B>,
    group: &Name,
    key: &str,
    letter: NewLetter<'_>,
) -> Result<()> {
    let mut reason = letter.rejection.reason();
    if reason.len() > LONGEST_REASON {
        let whole = |end: &usize| reason.is_char_boundary(*end);
        reason = &reason[..(0..=LONGEST_REASON).rev().find(whole).unwrap_or(0)];
    }
    let payload = serde_json::from_slice::<&RawValue>(letter.payload).map(ToOwned::to_owned);
    let form = LetterForm {
        v: wire::VERSION,
        reason: reason.to_owned(),
        attempts: letter.rejection.attempts(letter.delivery),
        rejected: wire::millis(SystemTime::now()),
        api: letter.api.to_string(),
        native_id: letter.native_id.map(ToString::to_string),
        time: letter.time.map(wire::millis),
        payload: match payload {
            Ok(payload) => payload,
            Err(_) => text(&String::from_utf8_lossy(letter.payload))?,
        },
    };
    let value = wire::write(&form)?.into();
    let put = shared.put(&Store::DeadLetters(Name::clone(group)), key, value, None).await;
    put.map_err(|error| error.during("dead-lettering an event"))
}

fn text(text: &str) -> Result<Box<RawValue>> {
    serde_json::value::to_raw_value(text).map_err(|error| {
        Error::new(ErrorKind::Unexpected, "a text cannot be written as JSON").because(error)
    })
}

impl LetterForm {
    fn into_letter(self, id: Name, group: GroupSpec) -> DeadLetter {
        let payload = Bytes::from(String::from(Box::<str>::from(self.payload)));
        let mut event = match wire::decode_event(&payload) {
            Ok((event, _)) => event,
            Err(_) => {
                let fields = Arguments::from_iter([(PAYLOAD.into(), payload)]);
                EventMessage::new(Name::clone(&id), self.api, "", 0, fields)
            }
        };
        event.native_id = self.native_id.map(Name::from);
        event.time = self.time.map(wire::moment);
        DeadLetter {
            id,
            event,
            group,
            reason: self.reason,
            attempts: self.attempts,
            time: wire::moment(self.rejected),
        }
    }
}

/// The letters of these keys that are there.
async fn get<B: Broker>(
    shared: &Shared<B>,
    group: &GroupSpec,
    keys: Vec<Name>,
) -> Result<Vec<DeadLetter>> {
    let found = shared.values(&Store::DeadLetters(safe_name(&group.name())), keys).await?;
    let letters =
        found.into_iter().filter_map(|(key, value)| match codec::decode::<LetterForm>(&value) {
            Ok(form) => Some(form.into_letter(key, group.clone())),
            Err(error) => {
                tracing::warn!(%error, id = &*key, "a dead letter cannot be read");
                None
            }
        });
    Ok(letters.collect())
}

#[async_trait]
impl<B: Broker> DeadLetters for BrokerEventTransport<B> {
    async fn list(
        &self,
        group: &GroupSpec,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>> {
        let list = async |shared: &Shared<B>| {
            if let Some(other) = after.filter(|after| !is_key(after)) {
                let error = Error::new(ErrorKind::Invalid, "this is not the id of a dead letter");
                return Err(error.with("id", other));
            }
            let mut keys = shared.keys(&Store::DeadLetters(safe_name(&group.name()))).await?;
            keys.retain(|key| is_key(key) && after.is_none_or(|after| &**key > after));
            keys.sort_unstable();
            keys.truncate(limit);
            get(shared, group, keys).await
        };
        self.handle.during(format!("reading the dead letters of {group}"), list).await
    }

    async fn remove(&self, group: &GroupSpec, ids: &[Name]) -> Result<usize> {
        let store = Store::DeadLetters(safe_name(&group.name()));
        let remove = async |shared: &Shared<B>| {
            let mut removed = 0;
            for id in ids.iter().filter(|id| is_key(id)) {
                removed += usize::from(shared.delete(&store, id).await?);
            }
            Ok(removed)
        };
        self.handle.during(format!("removing dead letters of {group}"), remove).await
    }

    async fn requeue(&self, group: &GroupSpec, ids: &[Name]) -> Result<usize> {
        let name = safe_name(&group.name());
        let store = Store::DeadLetters(Name::clone(&name));
        let requeue = async |shared: &Shared<B>| {
            let keys = ids.iter().filter(|id| is_key(id)).cloned().collect();
            let letters = get(shared, group, keys).await?;
            let count = letters.len();
            for letter in letters {
                shared.publish(vec![requeued(shared, &letter, &name).await?]).await?;
                // Once more, rather than never.
                shared
                    .delete(&store, &letter.id)
                    .await
                    .map_err(|error| error.retry(Retry::MayDuplicate))?;
            }
            Ok(count)
        };
        self.handle.during(format!("requeueing dead letters of {group}"), requeue).await
    }
}

/// The message by which a group gets its event back.
async fn requeued<B: Broker>(
    shared: &Shared<B>,
    letter: &DeadLetter,
    group: &Name,
) -> Result<Message> {
    let event = &letter.event;
    if event.event.is_empty() {
        return Err(Error::new(
            ErrorKind::Malformed,
            "an event that cannot be read cannot be requeued",
        )
        .with("id", &letter.id)
        .hint("Remove it"));
    }
    let channel = channel(&event.api);
    if !shared.limit(shared.broker.has_group(&channel, group)).await? {
        return Err(
            Error::new(ErrorKind::Unknown, "the consumer group is gone").with("id", &letter.id)
        );
    }
    let requeued = Requeued {
        group: Name::clone(group),
        native_id: event.native_id.clone(),
        time: event.time,
    };
    let payload = wire::encode_event(event, Some(&requeued))?;
    Ok(Message { key: event.key.clone(), ..Message::new(channel, payload) })
}
