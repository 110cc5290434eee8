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

use crate::{
    error::{Sent, from_lapin},
    limits::Limits,
};

/// A connection, and what is known about it.
pub(crate) struct Link {
    connection: Connection,
    broken: AtomicBool,
    /// Why the broker accepts no messages now, if so.
    blocked: watch::Receiver<Option<Arc<str>>>,
    response_timeout: Duration,
    limits: Limits,
    /// The broker's address without secrets, for logs and errors.
    broker: Arc<str>,
}

impl Link {
    pub(crate) fn new(connection: Connection, response_timeout: Duration, broker: &str) -> Self {
        let broker: Arc<str> = broker.into();
        let (sender, blocked) = watch::channel(None);
        let mut events = Box::pin(connection.events_listener());
        let address = Arc::clone(&broker);
        // Ends with the connection, which has the sender of the events.
        tokio::spawn(async move {
            while let Some(event) = events.next().await {
                match event {
                    Event::ConnectionBlocked(reason) => {
                        tracing::warn!(
                            broker = &*address,
                            reason,
                            "RabbitMQ accepts no messages until its alarm is over: sending waits"
                        );
                        sender.send_replace(Some(reason.into()));
                    }
                    Event::ConnectionUnblocked => {
                        tracing::info!(broker = &*address, "RabbitMQ accepts messages again");
                        sender.send_replace(None);
                    }
                    _ => {}
                }
            }
        });
        let limits = Limits::of_frames(connection.configuration().frame_max());
        let broken = AtomicBool::new(false);
        Self { connection, broken, blocked, response_timeout, limits, broker }
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

    /// Returns how large messages may be.
    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    pub(crate) fn response_timeout(&self) -> Duration {
        self.response_timeout
    }

    /// Opens a channel. It is closed when it is dropped.
    pub(crate) async fn channel(&self) -> Result<Channel> {
        self.request(self.connection.create_channel(), Sent::No).await
    }

    /// Waits for the broker's answer to a request, at most the response timeout.
    pub(crate) async fn request<T>(
        &self,
        work: impl Future<Output = lapin::Result<T>>,
        sent: Sent,
    ) -> Result<T> {
        self.with_timeout(work).await?.map_err(|error| self.explain(error, sent))
    }

    /// Does the same, and returns the client library's error, for callers that inspect it.
    pub(crate) async fn with_timeout<T>(
        &self,
        work: impl Future<Output = lapin::Result<T>>,
    ) -> Result<lapin::Result<T>> {
        match tokio::time::timeout(self.response_timeout, work).await {
            Ok(answer) => Ok(answer),
            Err(_) if self.blocked_reason().is_some() => Err(self.blocked_error()),
            Err(_) => {
                // A late answer would be taken for the answer to another request.
                self.mark_broken();
                Err(self.no_answer())
            }
        }
    }

    /// Returns the error of a broker that did not answer in time.
    pub(crate) fn no_answer(&self) -> Error {
        Error::new(ErrorKind::Unavailable, "RabbitMQ did not answer")
            .retry(lightbus_core::Retry::MayDuplicate)
            .with("broker", format_args!("rabbitmq {}", self.broker))
            .with("limit", format_args!("{:?}", self.response_timeout))
    }

    pub(crate) fn explain(&self, error: lapin::Error, sent: Sent) -> Error {
        from_lapin(error, &self.broker, sent)
    }

    /// Returns why the broker accepts no messages now.
    pub(crate) fn blocked_reason(&self) -> Option<Arc<str>> {
        self.blocked.borrow().clone()
    }

    pub(crate) fn blocked_error(&self) -> Error {
        let reason = self.blocked_reason();
        let reason = reason.as_deref().unwrap_or("a resource was low");
        Error::new(
            ErrorKind::Unavailable,
            format!("RabbitMQ accepts no messages because of an alarm: {reason}"),
        )
        .with("broker", format_args!("rabbitmq {}", self.broker))
        .hint("Check memory and disk space with rabbitmqctl status")
    }

    /// Waits until the broker accepts messages.
    pub(crate) async fn unblocked(&self, deadline: Instant) -> Result<()> {
        // The common case, without registering a waiter.
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
