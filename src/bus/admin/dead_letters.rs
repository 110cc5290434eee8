//! Dead letters: read, handled again, removed.

use std::sync::Arc;

use lightbus_core::{
    Error, ErrorKind, Name, Result,
    transport::{DeadLetter, EventTransport, GroupSpec},
};

use super::Admin;
use crate::{
    bus::shared::{Listening, at},
    config::nearest,
};

/// How many letters are read at once where all are handled again.
const PAGE: usize = 100;

/// A transport, and the ids of letters that it keeps.
type Kept = (Arc<dyn EventTransport>, Vec<Name>);

/// What came of handling dead letters again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct HandledDeadLetters {
    /// So many were handled, and are no dead letters any more.
    pub handled: usize,
    /// So many failed again, and stay where they were.
    pub failed: usize,
}

impl Admin {
    /// The events that a listener of a service could not handle, oldest first, at most `limit`.
    ///
    /// # Errors
    ///
    /// [`Unsupported`](ErrorKind::Unsupported) if the transport keeps no dead letters;
    /// [`Unavailable`](ErrorKind::Unavailable) if the broker does not answer.
    pub async fn dead_letters(
        &self,
        service: &str,
        listener: &str,
        limit: usize,
    ) -> Result<Vec<DeadLetter>> {
        let transports = self.bus.inner.apis.event_transports();
        self.letters_of(&transports, &GroupSpec::new(service, listener), limit).await
    }

    /// The dead letters that come after this one, oldest first, at most `limit`: the next page. The
    /// letter itself may be gone.
    ///
    /// # Errors
    ///
    /// As [`dead_letters`](Self::dead_letters), and
    /// [`Unsupported`](ErrorKind::Unsupported) if the transport cannot read them page by page.
    pub async fn dead_letters_after(
        &self,
        service: &str,
        listener: &str,
        after: &DeadLetter,
        limit: usize,
    ) -> Result<Vec<DeadLetter>> {
        let first = Arc::clone(&self.bus.inner.apis.entry(&after.event.api).event);
        let group = GroupSpec::new(service, listener);
        let mut letters = page_of(&*first, &group, Some(&after.id), limit).await?;
        // Those of the transports that come after it.
        let transports = self.bus.inner.apis.event_transports();
        let place = transports.iter().position(|other| Arc::ptr_eq(other, &first));
        let rest = &transports[place.map_or(transports.len(), |place| place + 1)..];
        let left = limit.saturating_sub(letters.len());
        letters.extend(self.letters_of(rest, &group, left).await?);
        Ok(letters)
    }

    async fn letters_of(
        &self,
        transports: &[Arc<dyn EventTransport>],
        group: &GroupSpec,
        limit: usize,
    ) -> Result<Vec<DeadLetter>> {
        self.bus.inner.ensure_open()?;
        let mut letters = Vec::new();
        for transport in transports {
            let left = limit.saturating_sub(letters.len());
            letters.extend(page_of(&**transport, group, None, left).await?);
        }
        Ok(letters)
    }

    /// Removes dead letters of a listener of a service, for ever. Gives how many there were: one
    /// that is gone already is no error.
    ///
    /// # Errors
    ///
    /// [`Unsupported`](ErrorKind::Unsupported) if the transport cannot;
    /// [`Unavailable`](ErrorKind::Unavailable) if the broker does not answer.
    ///
    /// # Cancel safety
    ///
    /// Dropped, any of them may be removed.
    pub async fn remove_dead_letters(
        &self,
        service: &str,
        listener: &str,
        letters: &[DeadLetter],
    ) -> Result<usize> {
        let group = GroupSpec::new(service, listener);
        let mut removed = 0;
        for (transport, ids) in self.by_transport(letters)? {
            let done = async {
                transport.open().await?;
                transport.require_dead_letters()?.remove(&group, &ids).await
            };
            removed += done.await.map_err(|error| {
                at(&*transport, error).during(format!("removing dead letters of {group}"))
            })?;
        }
        Ok(removed)
    }

    /// Gives dead letters back to the listener of a service that set them aside, wherever it runs: to
    /// its group and no other, as they were fired, with their attempts counted anew. Gives how many
    /// there were: one that is gone already is no error. When a process of the listener runs, it
    /// handles them; one that fails again becomes a dead letter again.
    ///
    /// In the process of the listener itself,
    /// [`handle_dead_letters`](Self::handle_dead_letters) says what came of it.
    ///
    /// # Delivery
    ///
    /// At least once: each is put back, and then removed. An event that the listener does not listen
    /// to any more is passed over, as any other.
    ///
    /// # Errors
    ///
    /// [`Unsupported`](ErrorKind::Unsupported) if the transport cannot;
    /// [`Unknown`](ErrorKind::Unknown) if the broker has the event, or the group, no more: that letter
    /// stays, others of the same call may have been given back;
    /// [`Unavailable`](ErrorKind::Unavailable) if the broker does not answer.
    ///
    /// # Cancel safety
    ///
    /// Dropped, any of them may be given back, and still be a dead letter too.
    pub async fn requeue_dead_letters(
        &self,
        service: &str,
        listener: &str,
        letters: &[DeadLetter],
    ) -> Result<usize> {
        let group = GroupSpec::new(service, listener);
        let mut requeued = 0;
        for (transport, ids) in self.by_transport(letters)? {
            let done = async {
                transport.open().await?;
                transport.require_dead_letters()?.requeue(&group, &ids).await
            };
            requeued += done.await.map_err(|error| {
                at(&*transport, error).during(format!("requeuing dead letters of {group}"))
            })?;
        }
        Ok(requeued)
    }

    /// The ids of letters, each with the transport that keeps it.
    fn by_transport(&self, letters: &[DeadLetter]) -> Result<Vec<Kept>> {
        self.bus.inner.ensure_open()?;
        let of = |transport: Arc<dyn EventTransport>| {
            let of_it = |letter: &&DeadLetter| {
                Arc::ptr_eq(&transport, &self.bus.inner.apis.entry(&letter.event.api).event)
            };
            let ids = letters.iter().filter(of_it).map(|letter| Name::clone(&letter.id)).collect();
            (transport, ids)
        };
        let all = self.bus.inner.apis.event_transports().into_iter().map(of);
        Ok(all.filter(|(_, ids): &Kept| !ids.is_empty()).collect())
    }

    /// Hands a dead letter to the listener that it came from, which this process must have, once;
    /// and removes it when it was handled. It goes to no other listener.
    ///
    /// # Delivery
    ///
    /// At least once: two processes that do it at the same time may both handle the event. It is
    /// handled beside what the listener does, without regard to order.
    ///
    /// # Errors
    ///
    /// [`Config`](ErrorKind::Config) if this process has no such listener, or the letter is none of
    /// its; [`Remote`](ErrorKind::Remote) with the reason if the handler failed: the letter stays
    /// as it was, whatever [`OnError`](crate::OnError) says;
    /// [`Unsupported`](ErrorKind::Unsupported) if the transport cannot remove dead letters: then
    /// nothing is handled.
    ///
    /// # Cancel safety
    ///
    /// Dropped, the event may be handled and the letter still be there.
    pub async fn handle_dead_letter(&self, listener: &str, letter: &DeadLetter) -> Result<()> {
        let replayed = async {
            let listeners = self.listeners(listener)?;
            let event = &letter.event;
            let owner = listeners.iter().find(|owner| {
                letter.group.ends_with(&*owner.spec().group.name())
                    && owner.spec().wants(&event.api, &event.event)
            });
            let Some(owner) = owner else {
                return Err(Error::new(
                    ErrorKind::Config,
                    "the dead letter is not one of this listener",
                )
                .with("group", &letter.group)
                .with("event", format!("{}.{}", event.api, event.event)));
            };
            // A letter that cannot be removed would be handled for ever.
            remove_from(&**owner, &[]).await?;
            self.replay(&**owner, letter).await
        };
        replayed
            .await
            .map_err(|error| error.during(format!("replaying a dead letter of {listener}")))
    }

    /// Hands the oldest dead letters, at most `most`, to the listener that they came from, one after
    /// the other and each once. Those that fail again stay. Otherwise as
    /// [`handle_dead_letter`](Self::handle_dead_letter).
    ///
    /// # Errors
    ///
    /// As [`handle_dead_letter`](Self::handle_dead_letter), but that handlers fail is only counted.
    pub async fn handle_dead_letters(
        &self,
        listener: &str,
        most: usize,
    ) -> Result<HandledDeadLetters> {
        let mut replayed = HandledDeadLetters::default();
        let work = async {
            for owner in self.listeners(listener)? {
                remove_from(&*owner, &[]).await?;
                self.replay_all(&*owner, most, &mut replayed).await?;
            }
            Ok(replayed)
        };
        let done: Result<HandledDeadLetters> = work.await;
        done.map_err(|error| error.during(format!("replaying the dead letters of {listener}")))
    }

    async fn replay_all(
        &self,
        owner: &dyn Listening,
        most: usize,
        replayed: &mut HandledDeadLetters,
    ) -> Result<()> {
        let group = &owner.spec().group;
        let mut last: Option<Name> = None;
        loop {
            let left = most - (replayed.handled + replayed.failed);
            let transport = &**owner.transport();
            let page = page_of(transport, group, last.as_deref(), left.min(PAGE)).await?;
            let Some(letter) = page.last() else { return Ok(()) };
            last = Some(Name::clone(&letter.id));
            for letter in &page {
                match self.replay(owner, letter).await {
                    Ok(()) => replayed.handled += 1,
                    Err(error) if error.kind() == ErrorKind::Remote => {
                        tracing::warn!(%error, listener = %group.listener, id = %letter.id, "a dead letter failed again");
                        replayed.failed += 1;
                    }
                    Err(error) => return Err(error),
                }
            }
        }
    }

    /// One try, and then the letter is removed.
    async fn replay(&self, owner: &dyn Listening, letter: &DeadLetter) -> Result<()> {
        self.bus.inner.ensure_taking()?;
        let failed = |reason: &str| {
            Error::new(ErrorKind::Remote, reason.to_owned()).with("event", &letter.event.id)
        };
        let event = Arc::new(letter.event.clone());
        if !owner.spec().wants(&event.api, &event.event) {
            return Err(failed(
                "the listener does not listen to such an event, or it was unreadable",
            ));
        }
        owner.handle_once(event).await.map_err(|reason| failed(&reason))?;
        remove_from(owner, &[Name::clone(&letter.id)]).await
    }

    /// The listener of this name, on each transport that it has events on.
    fn listeners(&self, name: &str) -> Result<Vec<Arc<dyn Listening>>> {
        self.bus.inner.ensure_taking()?;
        let all = self.bus.inner.state().listeners.clone();
        let found: Vec<_> =
            all.iter().filter(|known| *known.spec().group.listener == *name).cloned().collect();
        if !found.is_empty() {
            return Ok(found);
        }
        let mut known: Vec<_> =
            all.iter().map(|listener| &*listener.spec().group.listener).collect();
        known.sort_unstable();
        known.dedup();
        let error = Error::new(ErrorKind::Config, "this process has no listener of this name")
            .with("it has", if known.is_empty() { "none".to_owned() } else { known.join(", ") });
        Err(match nearest(name, known.iter().copied()) {
            Some(nearest) => error.hint(format!("Did you mean `{nearest}`?")),
            None => error.hint("Replay in a process of the service, after it has begun to listen"),
        })
    }
}

async fn remove_from(owner: &dyn Listening, ids: &[Name]) -> Result<()> {
    let removed = async {
        let dead_letters = owner.transport().require_dead_letters()?;
        dead_letters.remove(&owner.spec().group, ids).await
    };
    removed.await.map(drop).map_err(|error| at(&**owner.transport(), error))
}

/// The dead letters of a group that one transport keeps, after this one.
async fn page_of(
    transport: &dyn EventTransport,
    group: &GroupSpec,
    after: Option<&str>,
    limit: usize,
) -> Result<Vec<DeadLetter>> {
    let page = async {
        transport.open().await?;
        transport.require_dead_letters()?.list(group, after, limit).await
    };
    page.await.map_err(|error| {
        at(transport, error).during(format!("reading the dead letters of {group}"))
    })
}
