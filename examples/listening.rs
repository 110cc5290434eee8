//! Ordering by key, batches and dead letters, in memory: `cargo run --example listening`.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use lightbus::{RetryPolicy, prelude::*};

/// A shop.
#[lightbus::api(name = "shop", events(OrderPlaced))]
pub trait Shop {}

/// An order was placed. Orders of one customer are handled in order.
#[derive(Debug, lightbus::Event)]
#[event(key = "customer")]
pub struct OrderPlaced {
    customer: String,
    total: u32,
}

/// Whether the printer has paper.
static PAPER: AtomicBool = AtomicBool::new(false);

#[tokio::main]
async fn main() -> lightbus::Result<()> {
    let bus = Bus::in_memory().await?;
    bus.register(ShopClient::contract()).await?;

    // Up to eight concurrently, but orders of one customer one after the other.
    bus.listen("print", |order: OrderPlaced| async move {
        if order.customer == "ben" && !PAPER.load(Ordering::SeqCst) {
            return Err(HandlerError::new("out of paper"));
        }
        println!("printed: {} for {}", order.total, order.customer);
        Ok(())
    })
    .concurrency(8)
    // Each order for itself: the breaker would wait until another one is printed.
    .on_error(OnError::Retry(
        RetryPolicy::attempts(3)
            .backoff(Duration::from_millis(20), Duration::from_secs(10))
            .breaker(false),
    ))
    .await?;

    // All orders that arrive within 50 ms, at most a hundred.
    bus.listen_in_batches("sum", |orders: Vec<OrderPlaced>| async move {
        let sum: u32 = orders.iter().map(|order| order.total).sum();
        println!("a batch of {} orders: {sum} together", orders.len());
        Ok(())
    })
    .batch(100, Duration::from_millis(50))
    .await?;

    for (customer, total) in [("anna", 1), ("ben", 2), ("anna", 3), ("ben", 4), ("carl", 5)] {
        bus.fire(OrderPlaced { customer: customer.to_owned(), total }).await?;
    }
    bus.wait_until_idle().await?;

    for letter in bus.admin().dead_letters(bus.service_name(), "print", 10).await? {
        println!("dead letter: {} after {} tries", letter.reason, letter.attempts);
    }
    PAPER.store(true, Ordering::SeqCst);
    let replayed = bus.admin().handle_dead_letters("print", 10).await?;
    println!("{} handled again, {} failed again", replayed.handled, replayed.failed);
    bus.close().await
}
