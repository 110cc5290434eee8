//! How fast the memory transport and the subscription driver are, without the bus.
//!
//! `cargo bench -p lightbus-transport-memory`: one line for each measurement, three rounds. On Linux
//! with the time of all processors, which says more than the clock where other programs run.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use lightbus_core::{
    Arguments, ConfigSection, EventMessage, FlowControl, Headers, Name, Outcome, ResultMessage,
    RpcMessage, Subscription, TransportFactory,
    transport::{
        EventSelector, GroupSpec, ListenSpec, ResultTransport, RpcTransport, ServeSpec, Start,
    },
};
use lightbus_transport_memory::MemoryFactory;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    for _ in 0..3 {
        for (listeners, batch, events) in
            [(1, 1, 200_000), (1, 100, 500_000), (10, 1, 50_000), (10, 100, 100_000)]
        {
            fan_out(listeners, batch, events).await;
        }
        for callers in [1, 64, 512] {
            calls(callers, 200_000).await;
        }
    }
}

/// The processors' time that this process has used, in ticks of 10 ms.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    let ticks: u64 = fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 10)
}

fn event(n: usize) -> EventMessage {
    let fields = [
        (Name::from("username"), Bytes::from_static(b"\"admin\"")),
        (Name::from("email"), Bytes::from_static(b"\"admin@example.com\"")),
    ];
    EventMessage::new(n.to_string(), "auth", "user_registered", 1, Arguments::from_iter(fields))
}

async fn fan_out(listeners: usize, batch: usize, count: usize) {
    let factory = MemoryFactory::default();
    let events = factory.event(&ConfigSection::empty("bench")).expect("a transport");
    let received: Arc<[AtomicUsize]> = (0..listeners).map(|_| AtomicUsize::new(0)).collect();
    let mut tasks = Vec::new();
    for n in 0..listeners {
        let spec = ListenSpec {
            group: GroupSpec::new("bench", format!("listener-{n}")),
            process: "bench".into(),
            events: vec![EventSelector::one("auth", "user_registered")],
            start: Start::New,
            flow: FlowControl::new(100, 512),
        };
        let subscription = events.listen(spec).await.expect("a subscription");
        tasks.push(tokio::spawn(receive(subscription, count, n, Arc::clone(&received))));
    }
    let messages: Vec<_> = (0..count).map(event).collect();
    let (began, used) = (Instant::now(), cpu());
    let mut sent = 0;
    for batch in messages.chunks(batch) {
        events.send(batch).await.expect("sent");
        sent += batch.len();
        // Not further ahead than the log is long, and fair to those who receive.
        let slowest = || received.iter().map(|n| n.load(Relaxed)).min().unwrap_or(0);
        while sent % 100 == 0 && sent - slowest() > 50_000 {
            tokio::time::sleep(Duration::from_micros(100)).await;
        }
        if sent % 100 == 0 {
            tokio::task::yield_now().await;
        }
    }
    for task in tasks {
        task.await.expect("all events");
    }
    let (took, used) = (began.elapsed(), cpu() - used);
    let deliveries = listeners * count;
    println!(
        "events, {listeners} listeners, batches of {batch}: {:.2} M deliveries/s, {:.0} ns each by the clock, {:.0} ns of processors",
        deliveries as f64 / took.as_secs_f64() / 1e6,
        took.as_nanos() as f64 / deliveries as f64,
        used.as_nanos() as f64 / deliveries as f64,
    );
}

async fn receive(
    mut subscription: Subscription<EventMessage>,
    count: usize,
    listener: usize,
    all: Arc<[AtomicUsize]>,
) {
    let mut buffer = Vec::with_capacity(100);
    let mut received = 0;
    while received < count {
        received += subscription.next_batch(&mut buffer, 100).await;
        for delivery in buffer.drain(..) {
            delivery.expect("an event").ack.settle_later(Outcome::Done);
        }
        all[listener].store(received, Relaxed);
    }
}

async fn calls(callers: usize, count: usize) {
    let factory = MemoryFactory::default();
    let section = ConfigSection::empty("bench");
    let rpc = factory.rpc(&section).expect("a transport");
    let results = factory.result(&section).expect("a transport");
    let spec = ServeSpec { apis: vec!["auth".into()], flow: FlowControl::new(100, 512) };
    let worker =
        tokio::spawn(work(rpc.serve(spec).await.expect("a subscription"), Arc::clone(&results)));
    let (began, used) = (Instant::now(), cpu());
    let tasks: Vec<_> = (0..callers)
        .map(|caller| {
            let (rpc, results) = (Arc::clone(&rpc), Arc::clone(&results));
            tokio::spawn(async move {
                for n in 0..count / callers {
                    call(&*rpc, &*results, format!("{caller}-{n}").into()).await;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("all results");
    }
    let (took, used) = (began.elapsed(), cpu() - used);
    println!(
        "calls, {callers} at a time: {:.0} k/s, {:.2} µs each by the clock, {:.2} µs of processors",
        count as f64 / took.as_secs_f64() / 1e3,
        took.as_secs_f64() * 1e6 / count as f64,
        used.as_secs_f64() * 1e6 / count as f64,
    );
    worker.abort();
}

async fn call(rpc: &dyn RpcTransport, results: &dyn ResultTransport, id: Name) {
    let pending = results.expect(&id).await.expect("a registration");
    let message = RpcMessage {
        id,
        api: "auth".into(),
        procedure: "check_password".into(),
        fields: Arguments::from_iter([(Name::from("username"), Bytes::from_static(b"\"admin\""))]),
        headers: Headers::new(),
        return_path: pending.return_path().clone(),
        deadline: tokio::time::Instant::now() + Duration::from_secs(5),
    };
    rpc.call(message).await.expect("called");
    pending.await.expect("a result");
}

async fn work(mut calls: Subscription<RpcMessage>, results: Arc<dyn ResultTransport>) {
    let mut buffer = Vec::with_capacity(100);
    while calls.next_batch(&mut buffer, 100).await > 0 {
        for delivery in buffer.drain(..) {
            let delivery = delivery.expect("a call");
            let result = ResultMessage {
                id: Name::clone(&delivery.message.id),
                rpc_id: Name::clone(&delivery.message.id),
                headers: Headers::new(),
                body: Ok(Bytes::from_static(b"true")),
            };
            results.reply(&delivery.message.return_path, result).await.expect("replied");
            delivery.ack.settle_later(Outcome::Done);
        }
    }
}
