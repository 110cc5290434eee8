//! A connection to a loft, which all that a process does shares.
//!
//! A task writes requests and a task reads responses, so that a request whose future is dropped breaks
//! nothing. When the connection breaks, the requests under way fail and the next one connects again.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use lightbus_core::{Error, ErrorKind, Result, Retry};
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use tokio::{
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{Mutex, mpsc, oneshot},
    task::JoinSet,
    time::timeout,
};
use tokio_util::codec::{FramedRead, FramedWrite};

use crate::{
    PigeonConfig,
    protocol::{Ask, LONGEST, Request, Response, codec},
};

/// Requests that wait to be written.
const QUEUE: usize = 1024;

pub(crate) struct Client {
    pub(crate) config: PigeonConfig,
    connection: Mutex<Option<Arc<Connection>>>,
    last: AtomicU64,
}

struct Connection {
    requests: mpsc::Sender<Bytes>,
    answers: Answers,
    /// The two tasks; they end with it.
    _tasks: JoinSet<()>,
}

type Answer = std::result::Result<Box<RawValue>, String>;
/// Who waits for which response; `None` once the connection is broken.
type Answers = Arc<std::sync::Mutex<Option<HashMap<u64, oneshot::Sender<Answer>>>>>;

impl Client {
    pub(crate) fn new(config: PigeonConfig) -> Self {
        Self { config, connection: Mutex::default(), last: AtomicU64::new(0) }
    }

    /// Asks the loft, connecting first if need be.
    pub(crate) async fn ask<T: DeserializeOwned>(&self, ask: Ask) -> Result<T> {
        let connection = self.connection().await?;
        self.ask_on(&connection, ask).await
    }

    pub(crate) async fn close(&self) {
        *self.connection.lock().await = None;
    }

    async fn connection(&self) -> Result<Arc<Connection>> {
        let mut connection = self.connection.lock().await;
        if let Some(connection) = connection.as_ref().filter(|connection| connection.is_whole()) {
            return Ok(Arc::clone(connection));
        }
        let connecting =
            timeout(self.config.connection_timeout.0, TcpStream::connect(&self.config.loft));
        let stream = match connecting.await {
            Ok(connected) => connected.map_err(|error| away("no loft answers").because(error))?,
            Err(_) => return Err(away("no loft answered in time")),
        };
        // Requests are small, and somebody waits for each.
        let _ = stream.set_nodelay(true);
        let new = Arc::new(Connection::new(stream));
        let password = self.config.password.as_ref().map(|password| password.reveal().to_owned());
        let () = self.ask_on(&new, Ask::Hello(password)).await?;
        *connection = Some(Arc::clone(&new));
        Ok(new)
    }

    async fn ask_on<T: DeserializeOwned>(&self, connection: &Connection, ask: Ask) -> Result<T> {
        let id = self.last.fetch_add(1, Ordering::Relaxed);
        let request = serde_json::to_vec(&Request { id, ask }).map_err(|error| {
            Error::new(ErrorKind::Unexpected, "the request cannot be written").because(error)
        })?;
        if request.len() > LONGEST {
            return Err(Error::new(ErrorKind::TooLarge, "the message is larger than a loft takes")
                .with("bytes", request.len())
                .with("limit", LONGEST));
        }
        let answer = connection.await_answer(id)?;
        let broken = || away("the connection to the loft broke").retry(Retry::MayDuplicate);
        connection.requests.send(request.into()).await.map_err(|_| broken())?;
        match answer.await.map_err(|_| broken())? {
            Ok(answer) => serde_json::from_str(answer.get()).map_err(|error| {
                Error::new(ErrorKind::Unexpected, "the loft answered something else").because(error)
            }),
            Err(refused) => Err(away("the loft refused").with("answer", refused)),
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("config", &self.config).finish_non_exhaustive()
    }
}

fn away(what: &'static str) -> Error {
    Error::new(ErrorKind::Unavailable, what).hint("Is the loft running, at this address?")
}

impl Connection {
    fn new(stream: TcpStream) -> Self {
        let (read, write) = stream.into_split();
        let (requests, queue) = mpsc::channel(QUEUE);
        let answers = Answers::new(std::sync::Mutex::new(Some(HashMap::new())));
        let mut tasks = JoinSet::new();
        tasks.spawn(write_requests(queue, write));
        tasks.spawn(read_responses(read, Arc::clone(&answers)));
        Self { requests, answers, _tasks: tasks }
    }

    fn is_whole(&self) -> bool {
        lock(&self.answers).is_some()
    }

    fn await_answer(&self, id: u64) -> Result<oneshot::Receiver<Answer>> {
        let (sender, answer) = oneshot::channel();
        let mut answers = lock(&self.answers);
        let waiting = answers.as_mut().ok_or_else(|| away("the connection to the loft broke"))?;
        // One whose future is dropped goes when its response comes.
        waiting.insert(id, sender);
        Ok(answer)
    }
}

async fn write_requests(mut queue: mpsc::Receiver<Bytes>, write: OwnedWriteHalf) {
    let mut frames = FramedWrite::new(write, codec());
    while let Some(request) = queue.recv().await {
        let mut written = frames.feed(request).await;
        // What waits meanwhile goes with it.
        while let (Ok(()), Ok(request)) = (&written, queue.try_recv()) {
            written = frames.feed(request).await;
        }
        if written.is_err() || SinkExt::<Bytes>::flush(&mut frames).await.is_err() {
            // The reader sees it too, and fails the requests under way.
            return;
        }
    }
}

async fn read_responses(read: OwnedReadHalf, answers: Answers) {
    let mut frames = FramedRead::new(read, codec());
    while let Some(Ok(frame)) = frames.next().await {
        let Ok(Response { id, answer }) = serde_json::from_slice(&frame) else { break };
        let sender = lock(&answers).as_mut().and_then(|waiting| waiting.remove(&id));
        // There is none if the future was dropped.
        sender.map(|sender| sender.send(answer));
    }
    lock(&answers).take();
}

fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Nothing panics while it is locked.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
