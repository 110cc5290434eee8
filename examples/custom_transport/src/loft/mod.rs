//! The broker: a server that keeps everything in memory for as long as it runs. It is no part of a
//! transport: in a copy of this crate a real broker takes its place.

mod channel;
mod store;

use std::{
    collections::HashMap,
    fmt, io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinSet,
    time::{Instant, timeout_at},
};
use tokio_util::codec::{FramedRead, FramedWrite};

use crate::protocol::{Ask, Delivered, Letter, Request, Response, codec};
use channel::Channel;
use store::Stores;

/// What a loft keeps. It outlives the [`Server`]s that serve it: so a test can stop one and start
/// another.
#[derive(Clone, Default)]
pub struct Loft(Arc<Inner>);

#[derive(Default)]
struct Inner {
    password: Option<String>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    channels: HashMap<String, Channel>,
    stores: Stores,
    /// The number of the last message.
    last: u64,
}

type Answer = Result<Box<RawValue>, String>;

impl Loft {
    /// An empty loft. With a password it serves only clients that send it.
    #[must_use]
    pub fn new(password: Option<String>) -> Self {
        Self(Arc::new(Inner { password, state: Mutex::default() }))
    }

    /// Publishes a text, whatever it is.
    pub fn publish(&self, channel: &str, text: &str) {
        let letter = Letter { channel: channel.into(), text: text.into(), ttl: None, keep: true };
        let _ = lock(&self.0.state).answer(Ask::Publish(vec![letter]));
    }

    /// Stores a text, whatever it is.
    pub fn put(&self, store: &str, key: &str, text: &str) {
        lock(&self.0.state).stores.put(store.into(), key.into(), text.into(), None);
    }

    /// Serves at this address until the server is dropped.
    ///
    /// # Errors
    ///
    /// If it cannot listen there.
    pub async fn serve(&self, address: &str) -> io::Result<Server> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let connections = Arc::new(Mutex::new(JoinSet::new()));
        let mut accepting = JoinSet::new();
        let (loft, accepted) = (self.clone(), Arc::clone(&connections));
        accepting.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let mut connections = lock(&accepted);
                while connections.try_join_next().is_some() {}
                connections.spawn(loft.clone().serve_connection(stream));
            }
        });
        Ok(Server { address, connections, accepting })
    }

    async fn serve_connection(self, stream: TcpStream) {
        let _ = stream.set_nodelay(true);
        let (read, write) = stream.into_split();
        let mut requests = FramedRead::new(read, codec());
        let mut responses = FramedWrite::new(write, codec());
        let (sender, mut answered) = mpsc::channel::<Vec<u8>>(1024);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            while let Some(response) = answered.recv().await {
                if responses.send(Bytes::from(response)).await.is_err() {
                    break;
                }
            }
        });
        let mut known = false;
        while let Some(Ok(frame)) = requests.next().await {
            while tasks.try_join_next().is_some() {}
            let Ok(Request { id, ask }) = serde_json::from_slice(&frame) else { break };
            known |= matches!(&ask, Ask::Hello(password) if *password == self.0.password);
            match ask {
                _ if !known => respond(&sender, id, Err("who are you?".into())).await,
                // Others are served while it waits.
                Ask::Fetch { channel, group, max, wait, lease } => {
                    let (loft, sender) = (self.clone(), sender.clone());
                    let deadline = Instant::now() + Duration::from_millis(wait);
                    tasks.spawn(async move {
                        let found = loft.fetch(&channel, &group, max, deadline, lease).await;
                        respond(&sender, id, answer(&found)).await;
                    });
                }
                ask => {
                    let answer = lock(&self.0.state).answer(ask);
                    respond(&sender, id, answer).await;
                }
            }
        }
    }

    /// Takes what there is for a group, or waits for it.
    async fn fetch(
        &self,
        channel: &str,
        group: &str,
        max: usize,
        deadline: Instant,
        lease: u64,
    ) -> Vec<Delivered> {
        let lease = Duration::from_millis(lease);
        loop {
            let (bell, again) = {
                let mut state = lock(&self.0.state);
                let channel = state.channels.entry(channel.to_owned()).or_default();
                let (found, again) = channel.take(group, max, lease);
                if !found.is_empty() || Instant::now() >= deadline {
                    return found;
                }
                (channel.bell(), again.map_or(deadline, |again| again.min(deadline)))
            };
            let _ = timeout_at(again, bell).await;
        }
    }
}

impl fmt::Debug for Loft {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loft").finish_non_exhaustive()
    }
}

impl State {
    fn answer(&mut self, ask: Ask) -> Answer {
        match ask {
            Ask::Publish(letters) => {
                let mut numbers = Vec::with_capacity(letters.len());
                for letter in letters {
                    self.last += 1;
                    numbers.push(self.last);
                    self.channels.entry(letter.channel).or_default().push(
                        self.last,
                        letter.text,
                        letter.ttl,
                        letter.keep,
                    );
                }
                answer(&numbers)
            }
            Ask::Subscribe { channel, group, start } => {
                answer(&self.channels.entry(channel).or_default().join(group, start, self.last))
            }
            Ask::Settle { channel, group, receipts, fate } => {
                answer(&self.known(&channel, |channel| channel.settle(&group, &receipts, fate)))
            }
            Ask::Forget { channel, group } => {
                self.known(&channel, |channel| channel.forget(&group));
                self.channels.retain(|_, channel| !channel.is_unused());
                answer(&())
            }
            Ask::HasGroup { channel, group } => {
                answer(&self.known(&channel, |channel| channel.has(&group)))
            }
            Ask::Lag { channel, group } => {
                answer(&self.known(&channel, |channel| channel.lag(&group)))
            }
            Ask::History { channel, before, limit } => {
                answer(&self.known(&channel, |channel| channel.history(before, limit)))
            }
            Ask::Put { store, key, value, ttl } => answer(&self.stores.put(store, key, value, ttl)),
            Ask::Get { store, key } => answer(&self.stores.get(&store, &key)),
            Ask::Delete { store, key } => answer(&self.stores.delete(&store, &key)),
            Ask::Keys { store } => answer(&self.stores.keys(&store)),
            Ask::Extend { store, key, ttl } => answer(&self.stores.extend(&store, &key, ttl)),
            Ask::Hello(_) | Ask::Fetch { .. } => answer(&()),
        }
    }

    fn known<T: Default>(&mut self, name: &str, ask: impl FnOnce(&mut Channel) -> T) -> T {
        self.channels.get_mut(name).map(ask).unwrap_or_default()
    }
}

async fn respond(sender: &mpsc::Sender<Vec<u8>>, id: u64, answer: Answer) {
    if let Ok(response) = serde_json::to_vec(&Response { id, answer }) {
        // Fails once the connection is closed.
        let _ = sender.send(response).await;
    }
}

fn answer<T: Serialize>(value: &T) -> Answer {
    to_raw_value(value).map_err(|error| error.to_string())
}

/// A loft that serves. Dropped, it ends, with all of its connections.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    connections: Arc<Mutex<JoinSet<()>>>,
    accepting: JoinSet<()>,
}

impl Server {
    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends all connections, and goes on serving.
    pub fn disconnect(&self) {
        lock(&self.connections).abort_all();
    }

    /// Ends, and returns when the address is free.
    pub async fn stop(mut self) {
        self.accepting.shutdown().await;
        let mut connections = std::mem::take(&mut *lock(&self.connections));
        connections.shutdown().await;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it is locked.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
