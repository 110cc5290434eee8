//! A member of a listener's group in one channel.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use async_trait::async_trait;

use super::{
    super::{
        Broker, Received,
        consume::{Member, Token},
        safe_name,
        shared::Shared,
        wire,
    },
    dead_letters::{self, NewLetter},
};
use crate::{Error, EventMessage, Name, Outcome, Rejection, Result, Source, transport::ListenSpec};

/// Takes events of one API, acknowledges what the listener did not ask for, and dead-letters what
/// cannot be read.
pub(super) struct EventSource<B: Broker> {
    member: Member<B>,
    shared: Arc<Shared<B>>,
    api: Name,
    group: Name,
    spec: Arc<ListenSpec>,
    /// To be acknowledged with the next fetch, as the last one could not.
    skipped: Mutex<Vec<Token<B>>>,
}

/// A delivery that is to be settled.
#[derive(Clone)]
pub(super) struct Delivered {
    /// By which the member holds it.
    held: u64,
    event: Arc<EventMessage>,
    /// The key of its dead letter: the same when settling has to be tried again.
    letter: Arc<OnceLock<Name>>,
}

/// What a message turned out to be.
enum Read {
    Event(EventMessage),
    /// Not what the listener asked for, or given back to another group.
    Other,
    Malformed(Error),
}

impl<B: Broker> EventSource<B> {
    pub(super) fn new(
        member: Member<B>,
        shared: Arc<Shared<B>>,
        api: Name,
        spec: Arc<ListenSpec>,
    ) -> Self {
        let group = safe_name(&spec.group.name());
        Self { member, shared, api, group, spec, skipped: Mutex::default() }
    }

    fn read(&self, received: &Received<Token<B>>) -> Read {
        match wire::decode_event(&received.payload) {
            Ok((_, Some(requeued))) if requeued.group != self.group => Read::Other,
            Ok((event, _)) if !self.spec.wants(&event.api, &event.event) => Read::Other,
            Ok((event, requeued)) => Read::Event(EventMessage {
                attempt: received.attempt,
                ..described(event, requeued, received)
            }),
            Err(error) => Read::Malformed(error),
        }
    }

    /// Dead-letters what cannot be read. Returns whether that is done.
    async fn reject(&self, received: &Received<Token<B>>, error: &Error) -> bool {
        tracing::warn!(%error, id = &*received.id, group = &*self.group, "an event that cannot be read was rejected");
        let letter = NewLetter {
            payload: &received.payload,
            rejection: &Rejection::new(format!("the event cannot be read: {}", error.message())),
            api: &self.api,
            delivery: received.attempt,
            native_id: Some(&received.id),
            time: received.time,
        };
        let key = dead_letters::new_key();
        let put = dead_letters::put(&self.shared, &self.group, &key, letter).await;
        // Otherwise it is redelivered, and tried again.
        put.inspect_err(|error| tracing::warn!(%error, "it was not dead-lettered")).is_ok()
    }

    /// Dead-letters a delivery that was rejected.
    async fn dead_letter(&self, delivered: &Delivered, rejection: &Rejection) -> Result<()> {
        let event = &delivered.event;
        let payload = wire::encode_event(event, None)?.into();
        let letter = NewLetter {
            payload: &payload,
            rejection,
            api: &event.api,
            delivery: event.attempt,
            native_id: event.native_id.as_ref(),
            time: event.time,
        };
        let key = delivered.letter.get_or_init(dead_letters::new_key);
        dead_letters::put(&self.shared, &self.group, key, letter).await
    }

    /// Acknowledges events that are not delivered. If that fails they are kept for the next attempt.
    async fn skip(&self, tokens: Vec<Token<B>>) {
        if let Err(error) = self.member.ack(tokens.clone()).await {
            tracing::debug!(%error, "events that were not asked for were not acknowledged");
            self.skipped().extend(tokens);
        }
    }

    fn skipped(&self) -> std::sync::MutexGuard<'_, Vec<Token<B>>> {
        // Nothing panics while it is locked.
        self.skipped.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl<B: Broker> Source for EventSource<B> {
    type Message = EventMessage;
    type Token = Delivered;

    async fn fetch(&self, max: usize) -> Result<Vec<(Arc<EventMessage>, Delivered)>> {
        let received = self.member.fetch(max).await?;
        let mut skipped = std::mem::take(&mut *self.skipped());
        let mut events = Vec::with_capacity(received.len());
        for received in received {
            match self.read(&received) {
                Read::Event(event) => {
                    let event = Arc::new(event);
                    let delivered = Delivered {
                        held: self.member.hold(received.token),
                        event: Arc::clone(&event),
                        letter: Arc::default(),
                    };
                    events.push((event, delivered));
                }
                Read::Other => skipped.push(received.token),
                Read::Malformed(error) => {
                    if self.reject(&received, &error).await {
                        skipped.push(received.token);
                    }
                }
            }
        }
        self.skip(skipped).await;
        Ok(events)
    }

    async fn settle(&self, settled: &[(Delivered, Outcome)]) -> Result<()> {
        let (mut done, mut again) = (Vec::with_capacity(settled.len()), Vec::new());
        for (delivered, outcome) in settled {
            match outcome {
                Outcome::Done => done.push(delivered.held),
                Outcome::Retry => again.push(delivered.held),
                Outcome::Reject(rejection) => {
                    // Kept first, then acknowledged: it is never neither.
                    self.dead_letter(delivered, rejection).await?;
                    done.push(delivered.held);
                }
            }
        }
        self.member.ack_held(&done).await?;
        self.member.release_held(&again).await
    }

    fn is_suspect(&self, event: &EventMessage, _: &Delivered) -> bool {
        event.attempt > 2
    }

    fn size(&self, event: &EventMessage) -> usize {
        event.fields.size()
    }

    async fn interrupt(&self) -> bool {
        // Soon over; what it takes is given back.
        true
    }

    async fn close(&self) -> Result<()> {
        self.member.close().await;
        Ok(())
    }
}

/// An event with what the broker says of it. One that was requeued keeps what it said before.
pub(super) fn described<T>(
    event: EventMessage,
    requeued: Option<wire::Requeued>,
    received: &Received<T>,
) -> EventMessage {
    let (native_id, time) = match requeued {
        Some(requeued) => (requeued.native_id, requeued.time),
        None => (Some(Name::clone(&received.id)), received.time),
    };
    EventMessage { native_id, time, ..event }
}
