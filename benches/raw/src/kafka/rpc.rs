//! Calls over two topics: one of requests, one of results, of which the caller reads a partition.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Headers as _;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, ThreadedProducer};
use rdkafka::{Message as _, Offset};
use tokio::sync::oneshot;

use super::{KafkaSite, headers};
use crate::{Caller, Load, Outcome, Peer, Processes, Result, closed_loop, payload, peer};

/// As many as the transport makes.
const PARTITIONS: i32 = 16;
const TICK: Duration = Duration::from_millis(100);

type Producer = ThreadedProducer<DefaultProducerContext>;

#[derive(Default)]
struct Waiting {
    next: AtomicU64,
    callers: Mutex<HashMap<String, oneshot::Sender<usize>>>,
}

impl Waiting {
    fn callers(&self) -> std::sync::MutexGuard<'_, HashMap<String, oneshot::Sender<usize>>> {
        self.callers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Clone)]
struct Call {
    producer: Arc<Producer>,
    topic: String,
    payload: Vec<u8>,
    waiting: Arc<Waiting>,
}

impl Caller for Call {
    async fn call(&mut self) -> Result<u64> {
        let number = self.waiting.next.fetch_add(1, Ordering::Relaxed);
        let id = number.to_string();
        let (sender, receiver) = oneshot::channel();
        self.waiting.callers().insert(id.clone(), sender);
        let all = headers(&[
            ("lightbus-id", &id),
            ("lightbus-procedure", "echo"),
            ("lightbus-return-path", "kafka:results/0"),
            ("lightbus-deadline", "1700000000000000"),
            ("time-left-ms", "5000"),
        ]);
        let partition = i32::try_from(number % u64::from(PARTITIONS.unsigned_abs()))?;
        let record: BaseRecord<'_, str, [u8]> = BaseRecord::to(&self.topic);
        send(
            &self.producer,
            record.partition(partition).payload(self.payload.as_slice()).headers(all),
        )?;
        let length = receiver.await?;
        if length == self.payload.len() { Ok(1) } else { Err("not the result of the call".into()) }
    }
}

fn send(producer: &Producer, record: BaseRecord<'_, str, [u8]>) -> Result<()> {
    let mut record = record;
    loop {
        match producer.send(record) {
            Ok(()) => return Ok(()),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                record = back;
                thread::yield_now();
            }
            Err((error, _)) => return Err(error.into()),
        }
    }
}

pub(crate) async fn measure(
    site: &KafkaSite,
    start: impl FnOnce() -> Result<Peer>,
    callers: usize,
    load: Load,
) -> Result<Outcome> {
    let (calls, results) = (site.topic("calls"), site.topic("results"));
    site.make(&calls, PARTITIONS).await?;
    site.make(&results, PARTITIONS).await?;
    let peer = start()?;
    let waiting = Arc::new(Waiting::default());
    let reader = site.reader(&results, 1, Offset::Beginning)?;
    let (shared, ended) = (Arc::clone(&waiting), Arc::new(AtomicBool::new(false)));
    let end = Arc::clone(&ended);
    let receiving = thread::spawn(move || receive(&reader, &shared, &end));
    let call = Call {
        producer: Arc::new(site.producer()?),
        topic: calls.clone(),
        payload: payload::text(site.bytes).into_bytes(),
        waiting,
    };
    let processes = Processes { server: Some(peer.pid()), ..Processes::of_client() };
    let outcome = closed_loop(vec![call; callers], load, processes).await;
    ended.store(true, Ordering::Relaxed);
    let _ = receiving.join();
    drop(peer);
    site.delete(&[&calls, &results]).await?;
    outcome
}

fn receive(reader: &BaseConsumer, waiting: &Waiting, ended: &AtomicBool) {
    while !ended.load(Ordering::Relaxed) {
        if let Some(Ok(result)) = reader.poll(TICK)
            && let Some(id) = id(&result)
            && let Some(caller) = waiting.callers().remove(&id)
        {
            let _ = caller.send(result.payload().map_or(0, <[u8]>::len));
        }
    }
}

fn id(record: &impl rdkafka::Message) -> Option<String> {
    let value = record.headers()?.iter().find(|header| header.key == "lightbus-id")?.value?;
    Some(String::from_utf8_lossy(value).into_owned())
}

/// The other process. It commits calls before it runs them, as who runs none twice has to, or never.
pub(crate) fn serve(site: &KafkaSite, commits: bool) -> Result<()> {
    const AT_ONCE: usize = 64;
    let producer: Producer = site.producer()?;
    let reader = site.reader(&site.topic("calls"), PARTITIONS, Offset::Beginning)?;
    let results = site.topic("results");
    peer::ready();
    loop {
        let mut batch = Vec::with_capacity(AT_ONCE);
        let mut wait = TICK;
        while batch.len() < AT_ONCE
            && let Some(call) = reader.poll(wait)
        {
            batch.push(call?.detach());
            wait = Duration::ZERO;
        }
        if batch.is_empty() {
            continue;
        }
        if commits {
            reader.commit_consumer_state(CommitMode::Sync)?;
        }
        for call in &batch {
            let Some(id) = id(call) else { continue };
            let all = headers(&[("lightbus-id", &id), ("lightbus-rpc-id", &id)]);
            let record: BaseRecord<'_, str, [u8]> = BaseRecord::to(&results);
            let payload = call.payload().unwrap_or_default();
            send(&producer, record.partition(0).payload(payload).headers(all))?;
        }
    }
}
