//! Sends records, many in flight. A batch is answered when its last record is confirmed.
//!
//! librdkafka puts records of one partition together, up to its own limit, and the topic's limit
//! (`max.message.bytes`) may be lower. Kafka then refuses them all, though each may be small enough; it has
//! stored none. So each is sent once more, in a request of its own, by [`Single`], and what is refused then
//! is too large. Such records come behind others that were sent after them. Held by tests/transport/sizes.rs.

use std::{
    fmt,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use lightbus_core::{Error, Name};
use rdkafka::{
    ClientContext, Message,
    config::{ClientConfig, FromClientConfigAndContext, RDKafkaLogLevel},
    error::{KafkaError, RDKafkaErrorCode as Code},
    message::{BorrowedMessage, OwnedHeaders},
    producer::{BaseRecord, DeliveryResult, Producer as _, ProducerContext, ThreadedProducer},
};
use tokio::sync::oneshot;

use crate::{
    context::{self, Refusals},
    error::code,
};

/// The wait before a record is tried again while librdkafka's queue is full.
const FULL: Duration = Duration::from_millis(2);

/// A record to be sent.
pub(crate) struct Outgoing {
    pub(crate) topic: Name,
    pub(crate) partition: Option<i32>,
    pub(crate) key: Option<Name>,
    /// `None` deletes the key from a compacted topic.
    pub(crate) payload: Option<Vec<u8>>,
    /// Taken when the record is sent.
    pub(crate) headers: Option<OwnedHeaders>,
}

/// Where a record was stored.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Placed {
    pub(crate) partition: i32,
    pub(crate) offset: i64,
}

/// Sends records to one cluster.
pub(crate) struct Producer {
    threaded: ThreadedProducer<DeliveryReports>,
    /// It had a fatal error, and must be replaced.
    broken: AtomicBool,
}

impl Producer {
    pub(crate) fn new(
        config: &ClientConfig,
        refusals: &Arc<Refusals>,
    ) -> std::result::Result<Self, KafkaError> {
        let single = Single::new(config.clone(), Arc::clone(refusals));
        let reports = DeliveryReports { refusals: Arc::clone(refusals), single: Some(single) };
        let threaded = ThreadedProducer::from_config_and_context(config, reports)?;
        Ok(Self { threaded, broken: AtomicBool::new(false) })
    }

    pub(crate) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Relaxed)
    }

    pub(crate) fn client(&self) -> &rdkafka::client::Client<DeliveryReports> {
        self.threaded.client()
    }

    /// Sends records, and waits until each is confirmed or has failed. The others are sent even if one
    /// fails.
    pub(crate) async fn send(
        &self,
        mut records: Vec<Outgoing>,
    ) -> std::result::Result<Vec<Placed>, KafkaError> {
        let (batch, confirmed) = Batch::new(records.len());
        for (index, record) in records.iter_mut().enumerate() {
            let ticket = Box::new(Ticket { batch: Arc::clone(&batch), index });
            let mut record = prepare(record, ticket);
            loop {
                match self.threaded.send(record) {
                    Ok(()) => break,
                    Err((KafkaError::MessageProduction(Code::QueueFull), back)) => {
                        record = back;
                        tokio::time::sleep(FULL).await;
                    }
                    Err((error, back)) => {
                        back.delivery_opaque.complete(Err(error));
                        break;
                    }
                }
            }
        }
        let answer = confirmed.await.unwrap_or(Err(KafkaError::Canceled));
        if let Err(error) = &answer
            && code(error) == Some(Code::Fatal)
        {
            self.broken.store(true, Ordering::Relaxed);
        }
        answer
    }
}

impl fmt::Debug for Producer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Producer").field("broken", &self.is_broken()).finish_non_exhaustive()
    }
}

fn prepare(record: &mut Outgoing, ticket: Box<Ticket>) -> BaseRecord<'_, str, [u8], Box<Ticket>> {
    let mut made: BaseRecord<'_, str, [u8], Box<Ticket>> =
        BaseRecord::with_opaque_to(&record.topic, ticket);
    made.headers = record.headers.take();
    if let Some(partition) = record.partition {
        made = made.partition(partition);
    }
    if let Some(key) = &record.key {
        made = made.key(&**key);
    }
    match &record.payload {
        Some(payload) => made.payload(payload),
        None => made,
    }
}

/// A batch of records, and who waits for it.
struct Batch {
    left: AtomicUsize,
    state: Mutex<State>,
}

struct State {
    placed: Vec<Placed>,
    failed: Option<KafkaError>,
    done: Option<oneshot::Sender<std::result::Result<Vec<Placed>, KafkaError>>>,
}

impl Batch {
    #[allow(clippy::type_complexity, reason = "said once, where it is made")]
    fn new(
        count: usize,
    ) -> (Arc<Self>, oneshot::Receiver<std::result::Result<Vec<Placed>, KafkaError>>) {
        let (done, confirmed) = oneshot::channel();
        let placed = vec![Placed::default(); count];
        let state = Mutex::new(State { placed, failed: None, done: Some(done) });
        (Arc::new(Self { left: AtomicUsize::new(count), state }), confirmed)
    }
}

/// One record of a batch.
pub(crate) struct Ticket {
    batch: Arc<Batch>,
    index: usize,
}

impl Ticket {
    fn complete(self, placed: std::result::Result<Placed, KafkaError>) {
        let mut state = self.batch.state.lock().unwrap_or_else(PoisonError::into_inner);
        match placed {
            Ok(placed) => state.placed[self.index] = placed,
            Err(error) => state.failed = Some(error),
        }
        if self.batch.left.fetch_sub(1, Ordering::AcqRel) == 1
            && let Some(done) = state.done.take()
        {
            let answer = match state.failed.take() {
                Some(error) => Err(error),
                None => Ok(std::mem::take(&mut state.placed)),
            };
            // Fails only if the sender waits no more.
            let _ = done.send(answer);
        }
    }
}

/// Sends records in requests of their own. Connects with the first.
struct Single {
    config: ClientConfig,
    refusals: Arc<Refusals>,
    producer: OnceLock<std::result::Result<ThreadedProducer<DeliveryReports>, KafkaError>>,
}

impl Single {
    fn new(mut config: ClientConfig, refusals: Arc<Refusals>) -> Self {
        config.set("batch.num.messages", "1");
        Self { config, refusals, producer: OnceLock::new() }
    }

    /// Sends a record that was refused as part of a batch. Runs in the thread of the delivery reports, which
    /// waits while the queue is full.
    fn send(&self, refused: &BorrowedMessage<'_>, ticket: Box<Ticket>) {
        let producer = self.producer.get_or_init(|| {
            let reports = DeliveryReports { refusals: Arc::clone(&self.refusals), single: None };
            ThreadedProducer::from_config_and_context(&self.config, reports)
        });
        let producer = match producer {
            Ok(producer) => producer,
            Err(error) => return ticket.complete(Err(error.clone())),
        };
        let mut record: BaseRecord<'_, [u8], [u8], Box<Ticket>> =
            BaseRecord::with_opaque_to(refused.topic(), ticket).partition(refused.partition());
        record.key = refused.key();
        record.payload = refused.payload();
        record.headers = refused.headers().map(|headers| headers.detach());
        loop {
            match producer.send(record) {
                Ok(()) => return,
                Err((KafkaError::MessageProduction(Code::QueueFull), back)) => {
                    record = back;
                    std::thread::sleep(FULL);
                }
                Err((error, back)) => return back.delivery_opaque.complete(Err(error)),
            }
        }
    }
}

/// The context of the producer: takes delivery reports.
pub(crate) struct DeliveryReports {
    refusals: Arc<Refusals>,
    /// Where records that were refused as part of a batch are sent.
    single: Option<Single>,
}

impl ClientContext for DeliveryReports {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        self.refusals.read(facility, text);
        context::log(level, facility, text);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.refusals.note(&error, reason);
        context::report(&error, reason);
    }

    fn stats_raw(&self, statistics: &[u8]) {
        context::stats(statistics);
    }
}

impl ProducerContext for DeliveryReports {
    type DeliveryOpaque = Box<Ticket>;

    fn delivery(&self, result: &DeliveryResult<'_>, ticket: Box<Ticket>) {
        match (result, &self.single) {
            (Err((error, refused)), Some(single)) if is_too_large(error) => {
                single.send(refused, ticket);
            }
            (Err((error, _)), _) => ticket.complete(Err(error.clone())),
            (Ok(record), _) => ticket
                .complete(Ok(Placed { partition: record.partition(), offset: record.offset() })),
        }
    }
}

fn is_too_large(error: &KafkaError) -> bool {
    matches!(code(error), Some(Code::MessageSizeTooLarge | Code::MessageBatchTooLarge))
}

/// The error of a call whose deadline passed while it was sent.
pub(crate) fn cut_short(broker: &str) -> Error {
    Error::unconfirmed().with("broker", format_args!("kafka {broker}"))
}
