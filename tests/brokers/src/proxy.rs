//! A TCP proxy that misbehaves on command.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinHandle,
};

/// What the proxy does to connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing: bytes pass.
    None,
    /// Ends the connections there are, once; new ones pass.
    Cut,
    /// Ends the connections there are, and every new one at once.
    Refuse,
    /// Accepts, and lets no byte pass.
    Stall,
    /// Lets a few bytes pass at a time.
    Drip,
    /// Ends the way to the server and leaves the way back open.
    HalfClose,
}

/// A proxy before a server on this machine, until it is dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    fault: watch::Sender<(Fault, u64)>,
    open: Arc<AtomicUsize>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// Passes connections on to the server at this port.
    pub async fn start(server: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (fault, watch) = watch::channel((Fault::None, 0));
        let open = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&open);
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                if watch.borrow().0 == Fault::Refuse {
                    continue;
                }
                tokio::spawn(connection(client, server, watch.clone(), Arc::clone(&count)));
            }
        });
        Self { address, fault, open, accepting }
    }

    /// Where it is, as a Redis.
    #[must_use]
    pub fn redis_url(&self) -> String {
        format!("redis://{}/0", self.address)
    }

    /// Where it listens.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// From now on, or for `Cut` once.
    pub fn set(&self, fault: Fault) {
        self.fault.send_modify(|(current, generation)| {
            *current = fault;
            *generation += 1;
        });
    }

    /// How many connections there are.
    #[must_use]
    pub fn open(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.set(Fault::Refuse);
    }
}

async fn connection(
    client: TcpStream,
    server: u16,
    mut fault: watch::Receiver<(Fault, u64)>,
    open: Arc<AtomicUsize>,
) {
    let born = fault.borrow_and_update().1;
    let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, server)).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    open.fetch_add(1, Ordering::SeqCst);
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let (there, back) = (fault.clone(), fault.clone());
    // One that was made after the cut is not meant.
    let cut = fault.wait_for(|(fault, generation)| {
        matches!(fault, Fault::Cut | Fault::Refuse) && *generation > born
    });
    let both = async {
        tokio::join!(
            pump(from_client, to_server, there, true),
            pump(from_server, to_client, back, false)
        )
    };
    tokio::select! {
        _ = cut => {}
        _ = both => {}
    }
    open.fetch_sub(1, Ordering::SeqCst);
}

async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut fault: watch::Receiver<(Fault, u64)>,
    is_request: bool,
) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let count = tokio::select! {
            read = from.read(&mut buffer) => match read {
                Ok(0) | Err(_) => break,
                Ok(count) => count,
            },
            _ = fault.wait_for(|(fault, _)| is_request && *fault == Fault::HalfClose) => break,
        };
        let mut rest = &buffer[..count];
        while !rest.is_empty() {
            let state = fault.borrow_and_update().0;
            let step = match state {
                Fault::Stall => {
                    if fault.changed().await.is_err() {
                        return;
                    }
                    continue;
                }
                Fault::Drip => {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                    rest.len().min(64)
                }
                _ => rest.len(),
            };
            if to.write_all(&rest[..step]).await.is_err() {
                return;
            }
            rest = &rest[step..];
        }
    }
    let _ = to.shutdown().await;
    if is_request && fault.borrow().0 == Fault::HalfClose {
        // The client's end stays open until it gives up.
        let mut rest = vec![0; 1024];
        while matches!(from.read(&mut rest).await, Ok(count) if count > 0) {}
    }
}
