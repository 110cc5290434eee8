//! Events within the process: one to many listeners, over a channel for each.

use std::sync::Arc;

use tokio::sync::mpsc;

use crate::{Caller, Load, Outcome, Processes, Result, closed_loop, payload};

const LISTENERS: usize = 10;

/// Events that a listener may be behind. The firer waits then, so what is sent is what is
/// delivered.
const CAPACITY: usize = 256;

pub(crate) async fn measure(bytes: usize, load: Load) -> Result<Outcome> {
    let listeners = (0..LISTENERS).map(|_| listen()).collect();
    let firer = Firer { listeners, payload: payload::text(bytes).into_bytes().into() };
    closed_loop(vec![firer], load, Processes::of_client()).await
}

fn listen() -> mpsc::Sender<Arc<[u8]>> {
    let (sender, mut events) = mpsc::channel::<Arc<[u8]>>(CAPACITY);
    tokio::spawn(async move {
        while let Some(event) = events.recv().await {
            std::hint::black_box(&event);
        }
    });
    sender
}

struct Firer {
    listeners: Vec<mpsc::Sender<Arc<[u8]>>>,
    payload: Arc<[u8]>,
}

impl Caller for Firer {
    async fn call(&mut self) -> Result<u64> {
        for listener in &self.listeners {
            listener.send(self.payload.clone()).await?;
        }
        Ok(self.listeners.len() as u64)
    }
}
