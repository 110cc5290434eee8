//! Takes events, as a member of the listener's group.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use lightbus_core::{
    Closing, Error, EventMessage, Name, Outcome, Result, Session, Source, json,
    transport::EventSelector,
};
use rdkafka::Message;

use super::{
    WHAT,
    codec::{self, Read},
    dead_letters::{self, Raw},
};
use crate::{
    client::{Client, User},
    group::{Assignments, Handoff, Kept, Member, MemberSpec, Reading, RecordPosition},
    topic::TopicSpec,
};

/// A record that was taken.
pub(super) enum Taken {
    Event(RecordPosition, Box<EventMessage>),
    Malformed(RecordPosition, String, Raw),
}

impl Taken {
    fn position(&self) -> RecordPosition {
        match self {
            Self::Event(position, _) | Self::Malformed(position, ..) => *position,
        }
    }
}

/// Reads the events that the listener selects.
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
        position: RecordPosition,
    ) -> Option<Taken> {
        match codec::read(record, &self.selectors, Some(&self.group)) {
            Read::Event(event) => Some(Taken::Event(position, event)),
            Read::Other => None,
            Read::Malformed(reason) => {
                let raw = Raw::of(record);
                tracing::warn!(
                    origin = raw.origin,
                    reason,
                    event = json::excerpt(&raw.payload),
                    "an event cannot be read and is dead-lettered"
                );
                Some(Taken::Malformed(position, reason, raw))
            }
        }
    }

    fn count(item: &mut Taken, delivery: u32) {
        if let Taken::Event(_, event) = item {
            event.attempt = delivery;
        }
    }
}

/// The topic of a group's dead letters.
pub(super) struct DeadLetterTopic {
    pub(super) topic: Name,
    pub(super) spec: TopicSpec,
}

/// Takes the events of a listener.
pub(super) struct EventSource {
    client: Arc<Client>,
    closing: Arc<Closing>,
    handoff: Arc<Handoff<Taken>>,
    member: Member<Taken>,
    dead: DeadLetterTopic,
    /// Events that cannot be read, and are not dead-lettered yet.
    malformed: Mutex<Vec<(RecordPosition, String, Raw)>>,
    /// Events that are dead-lettered and not committed yet. If the commit is tried again, they must not
    /// be dead-lettered twice.
    dead_lettered: Mutex<HashSet<(u64, i64)>>,
    /// Keeps the producer, because events may be dead-lettered after the transport is closed.
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
        let handoff = Arc::new(Handoff::new());
        let group = spec.group.clone();
        let member = Member::join(spec, Events { selectors, group }, &handoff).await?;
        Ok(Self {
            client: Arc::clone(client),
            closing: Arc::clone(closing),
            handoff,
            member,
            dead,
            malformed: Mutex::default(),
            dead_lettered: Mutex::default(),
            _user: user,
        })
    }

    /// Returns the partitions that it takes from.
    pub(super) fn assignments(&self) -> &Arc<Assignments> {
        self.member.assignments()
    }

    /// Dead-letters events that cannot be read. If that fails, it is tried again with the next fetch.
    async fn dead_letter_malformed(&self) {
        let malformed = std::mem::take(&mut *self.malformed());
        if malformed.is_empty() {
            return;
        }
        let records = malformed
            .iter()
            .map(|(_, reason, raw)| raw.outgoing(&self.dead.topic, reason))
            .collect();
        let sent = async {
            self.client.topic(&self.dead.topic, &self.dead.spec).await?;
            self.client.send(records).await
        };
        match sent.await {
            Ok(_) => self
                .member
                .assignments()
                .settle(malformed.into_iter().map(|(position, ..)| position)),
            Err(error) => {
                tracing::error!(%error, "events that cannot be read could not be dead-lettered yet");
                self.malformed().extend(malformed);
            }
        }
    }

    /// Dead-letters what the listener rejected, once. What another member has by now is left to it. No
    /// partition is given up between the dead letter and the settlement, until the guards are dropped.
    async fn dead_letter_rejected(&self, settled: &[(Token, Outcome)]) -> Result<Vec<Kept>> {
        let mut kept = Vec::new();
        let mut rejected = Vec::new();
        for (token, outcome) in settled {
            if let Outcome::Reject(reason) = outcome
                && !self.dead_lettered().contains(&token.key())
                && let Some(keeps) = self.member.assignments().keep(token.position)
            {
                kept.push(keeps);
                rejected.push((token, reason));
            }
        }
        if rejected.is_empty() {
            return Ok(kept);
        }
        let records = rejected
            .iter()
            .map(|(token, reason)| dead_letters::outgoing(&self.dead.topic, &token.event, reason))
            .collect();
        self.client.topic(&self.dead.topic, &self.dead.spec).await?;
        self.client.send(records).await?;
        self.dead_lettered().extend(rejected.iter().map(|(token, _)| token.key()));
        Ok(kept)
    }

    fn dead_lettered(&self) -> std::sync::MutexGuard<'_, HashSet<(u64, i64)>> {
        self.dead_lettered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn malformed(&self) -> std::sync::MutexGuard<'_, Vec<(RecordPosition, String, Raw)>> {
        self.malformed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What settling an event needs: its position, and the event itself in case it is rejected.
pub(super) struct Token {
    position: RecordPosition,
    event: Arc<EventMessage>,
    session: Session,
}

impl Token {
    fn key(&self) -> (u64, i64) {
        (self.position.assignment, self.position.offset)
    }
}

#[async_trait]
impl Source for EventSource {
    type Message = EventMessage;
    type Token = Token;

    async fn fetch(&self, max: usize) -> Result<Vec<(Arc<EventMessage>, Token)>> {
        self.dead_letter_malformed().await;
        let taken = tokio::select! {
            biased;
            taken = self.handoff.fetch(max) => taken?,
            () = self.closing.closed() => return Err(Error::closed(WHAT)),
        };
        let mut events = Vec::with_capacity(taken.len());
        let sessions = self.member.assignments().sessions(taken.iter().map(Taken::position));
        for (taken, session) in taken.into_iter().zip(sessions) {
            match taken {
                Taken::Event(position, event) => {
                    let event: Arc<EventMessage> = event.into();
                    events.push((Arc::clone(&event), Token { position, event, session }));
                }
                Taken::Malformed(position, reason, raw) => {
                    self.malformed().push((position, reason, raw))
                }
            }
        }
        Ok(events)
    }

    async fn settle(&self, settled: &[(Token, Outcome)]) -> Result<()> {
        let _kept = self.dead_letter_rejected(settled).await?;
        let done = settled.iter().filter(|(_, outcome)| *outcome != Outcome::Retry);
        let mut any = false;
        self.member
            .assignments()
            .settle(done.map(|(token, _)| token.position).inspect(|_| any = true));
        if !any {
            // The next owner reads it again, because the group's offset is before it.
            return Ok(());
        }
        self.member.assignments().commit().await?;
        let mut dead_lettered = self.dead_lettered();
        for (token, _) in settled {
            dead_lettered.remove(&token.key());
        }
        Ok(())
    }

    fn is_suspect(&self, message: &EventMessage, _: &Token) -> bool {
        message.attempt > 2
    }

    async fn begin(&self, token: &Token) -> Result<bool> {
        self.member.assignments().begin(token.position).await
    }

    fn session(&self, token: &Token) -> Option<Session> {
        Some(token.session.clone())
    }

    fn resize(&self, window: usize) {
        self.member.assignments().resize(window);
    }

    fn size(&self, message: &EventMessage) -> usize {
        message.fields.size()
    }

    async fn close(&self) -> Result<()> {
        self.dead_letter_malformed().await;
        self.member.leave().await;
        self.handoff.clear();
        Ok(())
    }
}
