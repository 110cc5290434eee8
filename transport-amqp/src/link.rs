//! One connection to RabbitMQ.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::StreamExt;
use lapin::{Channel, Connection, Event};
use lightbus_core::{Error, ErrorKind, Result};
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

use crate::error::{Sent, from_lapin};

/// A connection, and what is known about it.
pub(crate) struct Link {
    connection: Connection,
    broken: AtomicBool,
    /// Why the broker takes nothing now, if so.
    blocked: watch::Receiver<Option<Arc<str>>>,
    response_timeout: Duration,
    /// For people, without secrets.
    broker: Arc<str>,
}

impl Link {
    pub(crate) fn new(connection: Connection, response_timeout: Duration, broker: &str) -> Self {
        let broker: Arc<str> = broker.into();
        let (sender, blocked) = watch::channel(None);
        let mut events = Box::pin(connection.events_listener());
        let place = Arc::clone(&broker);
        // Ends with the connection, which has the other end.
        tokio::spawn(async move {
            while let Some(event) = events.next().await {
                match event {
                    Event::ConnectionBlocked(reason) => {
                        tracing::warn!(
                            broker = &*place,
                            reason,
                            "RabbitMQ takes no more messages until its alarm is over: sending waits"
                        );
                        sender.send_replace(Some(reason.into()));
                    }
                    Event::ConnectionUnblocked => {
                        tracing::info!(broker = &*place, "RabbitMQ takes messages again");
                        sender.send_replace(None);
                    }
                    _ => {}
                }
            }
        });
        Self { connection, broken: AtomicBool::new(false), blocked, response_timeout, broker }
    }

    /// Whether it is not known to be broken.
    pub(crate) fn is_alive(&self) -> bool {
        !self.broken.load(Ordering::Acquire) && self.connection.status().connected()
    }

    pub(crate) fn mark_broken(&self) {
        self.broken.store(true, Ordering::Release);
    }

    pub(crate) fn broker(&self) -> &str {
        &self.broker
    }

    pub(crate) fn response_timeout(&self) -> Duration {
        self.response_timeout
    }

    /// A channel of its own; dropped, it is closed.
    pub(crate) async fn channel(&self) -> Result<Channel> {
        self.request(self.connection.create_channel(), Sent::No).await
    }

    /// Waits for an answer of the broker, as long as one may take.
    pub(crate) async fn request<T>(
        &self,
        work: impl Future<Output = lapin::Result<T>>,
        sent: Sent,
    ) -> Result<T> {
        self.with_timeout(work).await?.map_err(|error| self.explain(error, sent))
    }

    /// The same, with the client's own error, to look at.
    pub(crate) async fn with_timeout<T>(
        &self,
        work: impl Future<Output = lapin::Result<T>>,
    ) -> Result<lapin::Result<T>> {
        match tokio::time::timeout(self.response_timeout, work).await {
            Ok(answer) => Ok(answer),
            Err(_) if self.is_blocked().is_some() => Err(self.blocked_error()),
            Err(_) => {
                // What it still has to say would be taken for the answer to something else.
                self.mark_broken();
                Err(self.silent())
            }
        }
    }

    /// The error of a broker that does not answer.
    pub(crate) fn silent(&self) -> Error {
        Error::new(ErrorKind::Unavailable, "RabbitMQ did not answer")
            .retry(lightbus_core::Retry::MayDuplicate)
            .with("broker", format_args!("rabbitmq {}", self.broker))
            .with("limit", format_args!("{:?}", self.response_timeout))
    }

    pub(crate) fn explain(&self, error: lapin::Error, sent: Sent) -> Error {
        from_lapin(error, &self.broker, sent)
    }

    /// Why the broker takes nothing now.
    pub(crate) fn is_blocked(&self) -> Option<Arc<str>> {
        self.blocked.borrow().clone()
    }

    pub(crate) fn blocked_error(&self) -> Error {
        let reason = self.is_blocked();
        let reason = reason.as_deref().unwrap_or("a resource was low");
        Error::new(
            ErrorKind::Unavailable,
            format!("RabbitMQ takes no messages because of an alarm: {reason}"),
        )
        .with("broker", format_args!("rabbitmq {}", self.broker))
        .hint("See rabbitmqctl status for memory and disk space")
    }

    /// Waits until the broker takes messages.
    pub(crate) async fn unblocked(&self, deadline: Instant) -> Result<()> {
        // Nearly always: without touching the lock's waiters.
        if self.blocked.borrow().is_none() {
            return Ok(());
        }
        let mut blocked = self.blocked.clone();
        match timeout_at(deadline, blocked.wait_for(Option::is_none)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(Error::new(ErrorKind::Unavailable, "the connection has ended")
                .with("broker", format_args!("rabbitmq {}", self.broker))),
            Err(_) => Err(self.blocked_error()),
        }
    }
}
