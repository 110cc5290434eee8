//! Listening: a member of the listener's group.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use lightbus_core::{Error, EventMessage, Name, Outcome, Result, Source, transport::EventSelector};
use rdkafka::Message;

use super::{
    WHAT,
    dead::{self, Raw},
    record,
};
use crate::{
    client::{Client, Closing, User},
    group::{Desk, Member, MemberSpec, Place, Reading},
    topic::TopicSpec,
    wire,
};

/// What was taken.
pub(super) enum Taken {
    Event(Place, Box<EventMessage>),
    Malformed(Place, String, Raw),
}

/// Reads events that somebody asked for.
struct Events {
    selectors: Vec<EventSelector>,
    group: String,
}

impl Reading for Events {
    type Item = Taken;

    const COMMITS_FIRST: bool = false;

    fn read<M: Message<Headers = rdkafka::message::BorrowedHeaders>>(
        &mut self,
        record: &M,
        place: Place,
    ) -> Option<Taken> {
        match record::read(record, &self.selectors, Some(&self.group)) {
            record::Read::Event(event) => Some(Taken::Event(place, event)),
            record::Read::Other => None,
            record::Read::Malformed(reason) => {
                let raw = Raw::of(record);
                tracing::warn!(
                    origin = raw.origin,
                    reason,
                    event = wire::excerpt(&raw.payload),
                    "an event cannot be read and is set aside"
                );
                Some(Taken::Malformed(place, reason, raw))
            }
        }
    }
}

/// Where a group sets aside what it cannot handle.
pub(super) struct DeadLetterTopic {
    pub(super) topic: Name,
    pub(super) spec: TopicSpec,
}

/// Takes the events of a listener.
pub(super) struct EventSource {
    client: Arc<Client>,
    closing: Arc<Closing>,
    desk: Arc<Desk<Taken>>,
    member: Member<Taken>,
    dead: DeadLetterTopic,
    /// Cannot be read, and not set aside yet.
    spoiled: Mutex<Vec<(Place, String, Raw)>>,
    /// Set aside, and their settlement not confirmed yet: not to be set aside twice.
    buried: Mutex<HashSet<(u64, i64)>>,
    /// The producer lives as long as the listener, which sets aside also when the transport closes.
    _user: User,
}

impl EventSource {
    pub(super) async fn start(
        client: &Arc<Client>,
        closing: &Arc<Closing>,
        spec: MemberSpec,
        selectors: Vec<EventSelector>,
        dead: DeadLetterTopic,
    ) -> Result<Self> {
        let user = User::new(Arc::clone(client));
        let desk = Arc::new(Desk::new());
        let group = spec.group.clone();
        let member = Member::join(spec, Events { selectors, group }, &desk).await?;
        Ok(Self {
            client: Arc::clone(client),
            closing: Arc::clone(closing),
            desk,
            member,
            dead,
            spoiled: Mutex::default(),
            buried: Mutex::default(),
            _user: user,
        })
    }

    /// Sets aside what cannot be read. What fails is tried again with the next.
    async fn set_aside_spoiled(&self) {
        let spoiled = std::mem::take(&mut *self.spoiled());
        if spoiled.is_empty() {
            return;
        }
        let records =
            spoiled.iter().map(|(_, reason, raw)| raw.outgoing(&self.dead.topic, reason)).collect();
        let sent = async {
            self.client.topic(&self.dead.topic, &self.dead.spec).await?;
            self.client.send(records).await
        };
        match sent.await {
            Ok(_) => self.member.book().settle(spoiled.into_iter().map(|(place, ..)| place)),
            Err(error) => {
                tracing::error!(%error, "events that cannot be read could not be set aside yet");
                self.spoiled().extend(spoiled);
            }
        }
    }

    /// Sets aside what the listener rejected, once.
    async fn set_aside(&self, settled: &[(Token, Outcome)]) -> Result<()> {
        let rejected: Vec<_> = {
            let buried = self.buried.lock().unwrap_or_else(PoisonError::into_inner);
            settled
                .iter()
                .filter_map(|(token, outcome)| match outcome {
                    Outcome::Reject(reason) => Some((token, reason)),
                    _ => None,
                })
                .filter(|(token, _)| !buried.contains(&token.key()))
                .collect()
        };
        if rejected.is_empty() {
            return Ok(());
        }
        let records = rejected
            .iter()
            .map(|(token, reason)| dead::outgoing(&self.dead.topic, &token.event, reason))
            .collect();
        self.client.topic(&self.dead.topic, &self.dead.spec).await?;
        self.client.send(records).await?;
        let mut buried = self.buried.lock().unwrap_or_else(PoisonError::into_inner);
        buried.extend(rejected.iter().map(|(token, _)| token.key()));
        Ok(())
    }

    fn spoiled(&self) -> std::sync::MutexGuard<'_, Vec<(Place, String, Raw)>> {
        self.spoiled.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An event that was handed out: where it came from, and itself, should it be set aside.
pub(super) struct Token {
    place: Place,
    event: Arc<EventMessage>,
}

impl Token {
    fn key(&self) -> (u64, i64) {
        (self.place.assignment, self.place.offset)
    }
}

#[async_trait]
impl Source for EventSource {
    type Message = EventMessage;
    type Token = Token;

    async fn fetch(&self, max: usize) -> Result<Vec<(Arc<EventMessage>, Token)>> {
        self.set_aside_spoiled().await;
        let taken = tokio::select! {
            biased;
            taken = self.desk.fetch(max) => taken?,
            () = self.closing.closed() => return Err(Error::closed(WHAT)),
        };
        let mut events = Vec::with_capacity(taken.len());
        for taken in taken {
            match taken {
                Taken::Event(place, event) => {
                    let event: Arc<EventMessage> = event.into();
                    events.push((Arc::clone(&event), Token { place, event }));
                }
                Taken::Malformed(place, reason, raw) => self.spoiled().push((place, reason, raw)),
            }
        }
        Ok(events)
    }

    async fn settle(&self, settled: &[(Token, Outcome)]) -> Result<()> {
        self.set_aside(settled).await?;
        let done = settled.iter().filter(|(_, outcome)| *outcome != Outcome::Retry);
        let mut any = false;
        self.member.book().settle(done.map(|(token, _)| token.place).inspect(|_| any = true));
        if !any {
            // Given back: the next owner reads it again, as the group's offset is before it.
            return Ok(());
        }
        self.member.book().commit().await?;
        let mut buried = self.buried.lock().unwrap_or_else(PoisonError::into_inner);
        for (token, _) in settled {
            buried.remove(&token.key());
        }
        Ok(())
    }

    async fn close(&self) -> Result<()> {
        self.set_aside_spoiled().await;
        self.member.leave().await;
        self.desk.clear();
        Ok(())
    }
}
