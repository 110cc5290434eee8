//! Dead letters: reading, handling, requeuing and removing them.

use std::sync::Arc;

use lightbus_core::{
    Error, ErrorKind, Name, Result,
    transport::{DeadLetter, EventTransport, GroupSpec},
};

use super::Admin;
use crate::bus::shared::{Listening, at};

/// How many dead letters to read at once when handling many.
const PAGE: usize = 100;

/// A transport with the ids of dead letters that it keeps.
type Kept = (Arc<dyn EventTransport>, Vec<Name>);

/// The result of handling dead letters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct HandledDeadLetters {
    /// How many were handled, and removed.
    pub handled: usize,
    /// How many failed again, and remain dead letters.
    pub failed: usize,
}

impl Admin {
    /// Returns the dead letters of a listener of a service, oldest first, at most `limit`.
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

    /// Returns the next page: the dead letters that follow `after`, oldest first, at most `limit`.
    /// `after` itself may have been removed.
    ///
    /// # Errors
    ///
    /// Those of [`dead_letters`](Self::dead_letters), and [`Unsupported`](ErrorKind::Unsupported) if the
    /// transport cannot read page by page.
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
        // Followed by those of the remaining transports.
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

    /// Removes dead letters of a listener of a service for good. Returns how many were removed; those
    /// that do not exist any more are ignored.
    ///
    /// # Errors
    ///
    /// [`Unsupported`](ErrorKind::Unsupported) if the transport cannot;
    /// [`Unavailable`](ErrorKind::Unavailable) if the broker does not answer.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, any of them may have been removed.
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

    /// Returns dead letters to the queue of their listener, wherever it runs. Only its consumer group
    /// receives them, as they were fired, with attempts counted from the start. Returns how many were
    /// requeued; those that do not exist any more are ignored.
    ///
    /// In a process that has the listener, [`handle_dead_letters`](Self::handle_dead_letters) handles
    /// them at once and reports the outcome.
    ///
    /// # Delivery
    ///
    /// At least once: each event is put back, then its dead letter is removed. If handling fails again,
    /// the event is dead-lettered again. An event that the listener no longer listens to is skipped.
    ///
    /// # Errors
    ///
    /// [`Unsupported`](ErrorKind::Unsupported) if the transport cannot requeue;
    /// [`Unknown`](ErrorKind::Unknown) if the broker no longer has the event or the group. That dead
    /// letter remains; others of the same call may have been requeued.
    /// [`Unavailable`](ErrorKind::Unavailable) if the broker does not answer.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, any of them may have been requeued, and may still be dead letters.
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

    /// Groups dead letters by the transport that keeps them.
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

    /// Passes a dead letter to its listener, which must be one of this process, and removes it once it
    /// has been handled. Makes a single attempt.
    ///
    /// # Delivery
    ///
    /// At least once: two processes that do so at the same time may both handle the event. It is handled
    /// concurrently with the listener's other events, so without order.
    ///
    /// # Errors
    ///
    /// [`Config`](ErrorKind::Config) if this process has no such listener, or if the dead letter is not
    /// one of it; [`Remote`](ErrorKind::Remote) with the reason if the handler failed. The dead letter
    /// then remains as it was, whatever [`OnError`](crate::OnError) says.
    /// [`Unsupported`](ErrorKind::Unsupported) if the transport cannot remove dead letters; nothing is
    /// handled then.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the event may have been handled although the dead letter remains.
    pub async fn handle_dead_letter(&self, listener: &str, letter: &DeadLetter) -> Result<()> {
        let handled = async {
            let listeners = self.listeners(listener)?;
            let event = &letter.event;
            let owner = listeners.iter().find(|owner| {
                letter.group == owner.spec().group && owner.spec().wants(&event.api, &event.event)
            });
            let Some(owner) = owner else {
                return Err(Error::new(
                    ErrorKind::Config,
                    "the dead letter is not one of this listener",
                )
                .with("group", letter.group.to_string())
                .with("event", format!("{}.{}", event.api, event.event)));
            };
            // Checked first: a dead letter that cannot be removed would be handled again and again.
            remove_from(&**owner, &[]).await?;
            self.handle_and_remove(&**owner, letter).await
        };
        handled.await.map_err(|error| error.during(format!("handling a dead letter of {listener}")))
    }

    /// Passes the oldest dead letters, at most `most`, to their listener, one after the other. Makes a
    /// single attempt each, as [`handle_dead_letter`](Self::handle_dead_letter) does. Dead letters that
    /// fail again remain.
    ///
    /// # Errors
    ///
    /// Those of [`handle_dead_letter`](Self::handle_dead_letter), except that failures of the handler are
    /// counted.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, some may have been handled, one of them without being removed.
    pub async fn handle_dead_letters(
        &self,
        listener: &str,
        most: usize,
    ) -> Result<HandledDeadLetters> {
        let mut handled = HandledDeadLetters::default();
        let work = async {
            for owner in self.listeners(listener)? {
                remove_from(&*owner, &[]).await?;
                self.handle_all(&*owner, most, &mut handled).await?;
            }
            Ok(handled)
        };
        let done: Result<HandledDeadLetters> = work.await;
        done.map_err(|error| error.during(format!("handling dead letters of {listener}")))
    }

    async fn handle_all(
        &self,
        owner: &dyn Listening,
        most: usize,
        handled: &mut HandledDeadLetters,
    ) -> Result<()> {
        let group = &owner.spec().group;
        let mut last: Option<Name> = None;
        loop {
            let left = most - (handled.handled + handled.failed);
            let transport = &**owner.transport();
            let page = page_of(transport, group, last.as_deref(), left.min(PAGE)).await?;
            let Some(letter) = page.last() else { return Ok(()) };
            last = Some(Name::clone(&letter.id));
            for letter in &page {
                match self.handle_and_remove(owner, letter).await {
                    Ok(()) => handled.handled += 1,
                    Err(error) if error.kind() == ErrorKind::Remote => {
                        tracing::warn!(%error, listener = %group.listener, id = %letter.id, "a dead letter failed again");
                        handled.failed += 1;
                    }
                    Err(error) => return Err(error),
                }
            }
        }
    }

    /// Makes one attempt, and removes the dead letter if it succeeds.
    async fn handle_and_remove(&self, owner: &dyn Listening, letter: &DeadLetter) -> Result<()> {
        self.bus.inner.ensure_taking()?;
        let failed = |reason: &str| {
            Error::new(ErrorKind::Remote, reason.to_owned()).with("event", &letter.event.id)
        };
        let event = Arc::new(letter.event.clone());
        if !owner.spec().wants(&event.api, &event.event) {
            return Err(failed(
                "the listener does not listen to this event, or the event could not be decoded",
            ));
        }
        owner.handle_once(event).await.map_err(|reason| failed(&reason))?;
        remove_from(owner, &[Name::clone(&letter.id)]).await
    }

    /// Returns a listener of this process, once for each of its transports.
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
        Err(Error::new(ErrorKind::Config, "this process has no listener of this name")
            .with("it has", if known.is_empty() { "none".to_owned() } else { known.join(", ") })
            .hint("Handle dead letters in a process of the service that runs the listener")
            .did_you_mean(name, known))
    }
}

async fn remove_from(owner: &dyn Listening, ids: &[Name]) -> Result<()> {
    let removed = async {
        let dead_letters = owner.transport().require_dead_letters()?;
        dead_letters.remove(&owner.spec().group, ids).await
    };
    removed.await.map(drop).map_err(|error| at(&**owner.transport(), error))
}

/// Reads a page of the dead letters that one transport keeps for a group.
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
