//! Blocking reads on a connection of their own, which can be interrupted.

use std::{
    future::Future,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::Duration,
};

use lightbus_core::{Closing, Error, ErrorKind, Result};
use redis::RedisResult;

use crate::{
    client::{Client, User},
    error::{Sent, breaks_connection, from_redis},
    link::Link,
    value,
};

/// How long a read blocks at the server.
pub(crate) const BLOCK: Duration = Duration::from_secs(1);
/// How much longer the server may take before it counts as unreachable.
const SILENCE: Duration = Duration::from_secs(4);
/// The wait before a read is unblocked again that had not reached the server yet.
const WAKE_AGAIN: Duration = Duration::from_millis(5);
/// How long an interrupted read may take to return.
const WAKE_LIMIT: Duration = Duration::from_millis(1500);

/// Reads on a connection of its own, one read at a time.
pub(crate) struct Reader {
    client: Arc<Client>,
    closing: Arc<Closing>,
    /// The connection, while no read uses it.
    idle: Mutex<Option<Link>>,
    /// The server's id of the connection with a read in progress; 0 if there is none.
    reading: AtomicI64,
    interrupted: AtomicBool,
    /// The key that is read: in a cluster it decides the server.
    key: String,
    _user: User,
}

impl Reader {
    pub(crate) fn new(client: Arc<Client>, closing: Arc<Closing>, key: &str) -> Self {
        Self {
            _user: User::new(Arc::clone(&client)),
            client,
            closing,
            idle: Mutex::new(None),
            reading: AtomicI64::new(0),
            interrupted: AtomicBool::new(false),
            key: key.to_owned(),
        }
    }

    pub(crate) fn client(&self) -> &Arc<Client> {
        &self.client
    }

    /// Whether reading has ended.
    pub(crate) fn is_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::SeqCst) || self.closing.is_closed()
    }

    /// Returns an error if the transport is closed.
    pub(crate) fn check_open(&self, what: &'static str) -> Result<()> {
        self.closing.check(what)
    }

    /// Takes the connection for one read, and says whether it is new. [Give it back](Self::give_back)
    /// after the read.
    pub(crate) async fn take(&self) -> Result<(Link, bool)> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).take();
        match idle {
            Some(link) if link.is_alive() => Ok((link, false)),
            _ => self.client.dedicated(&self.key).await.map(|link| (link, true)),
        }
    }

    pub(crate) fn give_back(&self, link: Link) {
        if link.is_alive() {
            *self.idle.lock().unwrap_or_else(PoisonError::into_inner) = Some(link);
        }
    }

    /// Waits for a command that blocks at the server for at most [`BLOCK`], and unblocks it if the
    /// transport is closed meanwhile. Returns `None` if reading has ended.
    pub(crate) async fn blocking<T>(
        &self,
        link: &Link,
        read: impl Future<Output = RedisResult<T>>,
    ) -> Result<Option<RedisResult<T>>> {
        self.reading.store(link.server.id, Ordering::SeqCst);
        if self.is_interrupted() {
            self.reading.store(0, Ordering::SeqCst);
            return Ok(None);
        }
        let read = async {
            let answer = tokio::time::timeout(BLOCK.saturating_add(SILENCE), read).await;
            self.reading.store(0, Ordering::SeqCst);
            answer
        };
        let answer = {
            let mut read = std::pin::pin!(read);
            tokio::select! {
                biased;
                answer = &mut read => answer,
                () = self.closing.closed() => {
                    // The read is polled while it is unblocked.
                    let (answer, ()) = tokio::join!(&mut read, self.wake());
                    answer
                }
            }
        };
        match answer {
            Ok(Err(error)) if breaks_connection(&error) => {
                link.mark_broken();
                Err(from_redis(error, self.client.broker(), Sent::Harmless))
            }
            Ok(answer) => Ok(Some(answer)),
            Err(_) => {
                link.mark_broken();
                Err(Error::new(ErrorKind::Unavailable, "Redis did not answer")
                    .with("broker", format_args!("redis {}", self.client.broker())))
            }
        }
    }

    /// Waits for the answer to commands that do not block.
    pub(crate) async fn request<T>(
        &self,
        link: &Link,
        work: impl Future<Output = RedisResult<T>>,
    ) -> Result<T> {
        let answer = tokio::time::timeout(SILENCE, work).await;
        match answer {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => {
                if breaks_connection(&error) {
                    link.mark_broken();
                }
                Err(from_redis(error, self.client.broker(), Sent::Harmless))
            }
            Err(_) => {
                link.mark_broken();
                Err(Error::new(ErrorKind::Unavailable, "Redis did not answer")
                    .with("broker", format_args!("redis {}", self.client.broker())))
            }
        }
    }

    /// Makes the read in progress return, and prevents another.
    pub(crate) async fn interrupt(&self) -> bool {
        self.interrupted.store(true, Ordering::SeqCst);
        tokio::time::timeout(WAKE_LIMIT, self.wake()).await.ok();
        true
    }

    /// Unblocks the read in progress, repeatedly until it is unblocked or over: it may not have reached
    /// the server yet.
    async fn wake(&self) {
        loop {
            let id = self.reading.load(Ordering::SeqCst);
            if id == 0 {
                return;
            }
            let mut unblock = redis::cmd("CLIENT");
            unblock.arg("UNBLOCK").arg(id);
            match self.client.command_at(&self.key, &unblock).await {
                Ok(answer) if value::int(&answer) == Some(1) => return,
                Ok(_) | Err(_) => tokio::time::sleep(WAKE_AGAIN).await,
            }
        }
    }
}
