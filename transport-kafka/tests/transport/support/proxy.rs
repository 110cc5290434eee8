//! A relay in front of a broker, whose connections can be broken.

use std::sync::{Arc, Mutex};

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// Relays connections to a port until it is dropped.
pub struct Proxy {
    pub port: u16,
    accept: JoinHandle<()>,
    connections: Arc<Mutex<Vec<JoinHandle<()>>>>,
}

impl Proxy {
    pub async fn to(target: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let connections: Arc<Mutex<Vec<JoinHandle<()>>>> = Arc::default();
        let relayed = Arc::clone(&connections);
        let accept = tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let relay = tokio::spawn(async move {
                    // Without a broker the client is hung up on.
                    if let Ok(mut broker) = TcpStream::connect(("127.0.0.1", target)).await {
                        let _ = (client.set_nodelay(true), broker.set_nodelay(true));
                        let _ = copy_bidirectional(&mut client, &mut broker).await;
                    }
                });
                let mut relayed = relayed.lock().unwrap();
                relayed.retain(|relay| !relay.is_finished());
                relayed.push(relay);
            }
        });
        Self { port, accept, connections }
    }

    /// Breaks all connections. New ones are relayed.
    pub fn break_all(&self) {
        self.connections.lock().unwrap().drain(..).for_each(|relay| relay.abort());
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accept.abort();
        self.break_all();
    }
}
