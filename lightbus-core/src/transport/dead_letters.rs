//! Dead letters: the events that a consumer group could not handle.

use std::time::SystemTime;

use async_trait::async_trait;

use super::GroupSpec;
use crate::{EventMessage, Name, Result};

/// An event that a consumer group rejected.
#[derive(Clone, Debug)]
pub struct DeadLetter {
    /// The broker's id of the dead letter.
    pub id: Name,
    /// The event as it was sent, as far as it could be read.
    pub event: EventMessage,
    /// The consumer group that rejected it, as it was asked for.
    pub group: GroupSpec,
    /// Why it was rejected.
    pub reason: String,
    /// How often it was tried: within the last delivery as often as the listener reports
    /// ([`Rejection::attempts`](crate::Rejection::attempts)), plus once for each earlier delivery,
    /// where the broker counts them (case `a_rejected_delivery_never_comes_again`).
    pub attempts: u32,
    /// When it was rejected.
    pub time: SystemTime,
}

/// Reads, removes and requeues the dead letters of a consumer group.
///
/// Returned by [`EventTransport::dead_letters`](super::EventTransport::dead_letters). A group that
/// does not exist has no dead letters; that is not an error.
///
/// Every method fails with [`Unavailable`](crate::ErrorKind::Unavailable) if the broker does not
/// answer. A transport whose broker can only list returns [`Error::unsupported`](crate::Error::unsupported)
/// from the others, whatever the ids.
#[async_trait]
pub trait DeadLetters: Send + Sync {
    /// Returns the dead letters of a group, oldest first, at most `limit`.
    ///
    /// With `after`, returns those that follow the dead letter of this id: the next page. That
    /// dead letter may have been removed since (case `dead_letters_are_read_page_by_page`).
    ///
    /// # Errors
    ///
    /// [`Invalid`](crate::ErrorKind::Invalid) if `after` is not the id of a dead letter;
    /// `Unsupported` for an `after`, if the transport cannot read page by page.
    async fn list(
        &self,
        group: &GroupSpec,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>>;

    /// Deletes dead letters of a group and returns how many there were. Ids that do not exist are
    /// ignored (case `dead_letters_are_removed_one_by_one`).
    ///
    /// # Errors
    ///
    /// `Unsupported` if the transport cannot remove single dead letters.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, any of them may have been removed.
    async fn remove(&self, group: &GroupSpec, ids: &[Name]) -> Result<usize>;

    /// Returns dead letters to the queue of their group and returns how many there were. Ids that
    /// do not exist are ignored.
    ///
    /// # Delivery
    ///
    /// At least once, and to no other group (case
    /// `a_retried_dead_letter_comes_again_to_its_group_alone`). Each event is put back as it was
    /// sent; once the broker has confirmed that, the dead letter is removed. A member of the group
    /// receives it with its attempts counted from the start.
    ///
    /// # Ordering
    ///
    /// At its original position where the broker can put it there, otherwise behind the backlog.
    ///
    /// # Errors
    ///
    /// `Unsupported` if the transport cannot requeue;
    /// [`Unknown`](crate::ErrorKind::Unknown) if the broker no longer has the event or the group:
    /// that dead letter stays. Others of the same call may have been requeued.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, any of them may have been requeued, and may still be dead letters.
    async fn requeue(&self, group: &GroupSpec, ids: &[Name]) -> Result<usize>;
}
