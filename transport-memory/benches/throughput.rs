//! How fast the memory transport and the subscription driver are, without the bus.
//!
//! `cargo bench -p lightbus-transport-memory`: one line for each measurement.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use lightbus_core::{
    EventMessage, Fields, Flow, Headers, Name, Outcome, ResultMessage, RpcMessage, Section,
    Subscription, TransportFactory,
    transport::{EventSelector, ListenSpec, ResultTransport, RpcTransport, ServeSpec, Start},
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

fn event(n: usize) -> EventMessage {
    let fields = [
        (Name::from("username"), Bytes::from_static(b"\"admin\"")),
        (Name::from("email"), Bytes::from_static(b"\"admin@example.com\"")),
    ];
    EventMessage::new(n.to_string(), "auth", "user_registered", 1, Fields::from_iter(fields))
}

async fn fan_out(listeners: usize, batch: usize, count: usize) {
    let factory = MemoryFactory::default();
    // Longer than the measurement, so that a listener that falls behind loses nothing.
    let options = serde_json::json!({ "max_stream_length": 10_000_000 });
    let events = factory.event(&Section::new("bench", options)).expect("a transport");
    let tasks: Vec<_> = futures_util::future::join_all((0..listeners).map(async |n| {
        let spec = ListenSpec {
            service: "bench".into(),
            listener: format!("listener-{n}").into(),
            process: "bench".into(),
            events: vec![EventSelector::one("auth", "user_registered")],
            start: Start::New,
            flow: Flow::new(100, 512),
        };
        let subscription = events.listen(spec).await.expect("a subscription");
        tokio::spawn(receive(subscription, count))
    }))
    .await;
    let messages: Vec<_> = (0..count).map(event).collect();
    let began = Instant::now();
    for (n, batch) in messages.chunks(batch).enumerate() {
        events.send(batch).await.expect("sent");
        if n % 100 == 0 {
            tokio::task::yield_now().await;
        }
    }
    for task in tasks {
        task.await.expect("all events");
    }
    let took = began.elapsed();
    let deliveries = listeners * count;
    println!(
        "events, {listeners} listeners, batches of {batch}: {:.2} M deliveries/s, {:.0} ns each",
        deliveries as f64 / took.as_secs_f64() / 1e6,
        took.as_nanos() as f64 / deliveries as f64,
    );
}

async fn receive(mut subscription: Subscription<EventMessage>, count: usize) {
    let mut buffer = Vec::with_capacity(100);
    let mut received = 0;
    while received < count {
        received += subscription.next_batch(&mut buffer, 100).await;
        for delivery in buffer.drain(..) {
            delivery.expect("an event").ack.settle_later(Outcome::Done);
        }
    }
}

async fn calls(callers: usize, count: usize) {
    let factory = MemoryFactory::default();
    let section = Section::empty("bench");
    let rpc = factory.rpc(&section).expect("a transport");
    let results = factory.result(&section).expect("a transport");
    let spec = ServeSpec { apis: vec!["auth".into()], flow: Flow::new(100, 512) };
    let worker =
        tokio::spawn(work(rpc.serve(spec).await.expect("a subscription"), Arc::clone(&results)));
    let began = Instant::now();
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
    let took = began.elapsed();
    println!(
        "calls, {callers} at a time: {:.0} k/s, {:.2} µs each",
        count as f64 / took.as_secs_f64() / 1e3,
        took.as_secs_f64() * 1e6 / count as f64,
    );
    worker.abort();
}

async fn call(rpc: &dyn RpcTransport, results: &dyn ResultTransport, id: Name) {
    let pending = results.expect(&id).await.expect("a registration");
    let message = RpcMessage {
        id,
        api: "auth".into(),
        procedure: "check_password".into(),
        fields: Fields::from_iter([(Name::from("username"), Bytes::from_static(b"\"admin\""))]),
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
