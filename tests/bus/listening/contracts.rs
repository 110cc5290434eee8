//! What the tests fire, and how they note what was handled.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use lightbus::{RetryPolicy, prelude::*};

#[lightbus::api(name = "shop", events(Ordered, Shipped))]
pub trait Shop {}

/// Somebody has bought something.
#[derive(Clone, Debug, lightbus::Event)]
#[event(key = "customer")]
pub struct Ordered {
    #[event(rename = "customer_name")]
    pub customer: String,
    pub number: u32,
}

/// Something was sent. Has no key of its own.
#[derive(Clone, Debug, lightbus::Event)]
pub struct Shipped {
    pub customer: String,
    pub number: u32,
}

#[lightbus::api(name = "till", events(Paid))]
pub trait Till {}

/// Money came.
#[derive(Clone, Debug, lightbus::Event)]
pub struct Paid {
    pub amount: u32,
}

pub async fn register(bus: &Bus) {
    bus.register(ShopClient::contract()).await.unwrap();
    bus.register(TillClient::contract()).await.unwrap();
}

pub async fn order(bus: &Bus, customer: &str, number: u32) {
    bus.fire(Ordered { customer: customer.to_owned(), number }).await.unwrap();
}

/// This many tries, with hardly a wait, of each event for itself.
pub fn tries(attempts: u32) -> OnError {
    OnError::Retry(quick(attempts).breaker(false))
}

/// This many tries, with hardly a wait.
pub fn quick(attempts: u32) -> RetryPolicy {
    RetryPolicy::attempts(attempts).backoff(Duration::from_millis(2), Duration::from_millis(20))
}

/// What was handled, in order.
#[derive(Clone, Default)]
pub struct Notes(Arc<Mutex<Vec<String>>>);

impl Notes {
    pub fn add(&self, note: impl Into<String>) {
        self.0.lock().unwrap().push(note.into());
    }

    pub fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    /// All numbers in them, sorted: what has come again may have come in another order.
    pub fn sorted(&self) -> Vec<u64> {
        let all = self.all();
        let words = all.iter().flat_map(|note| note.split_whitespace());
        let mut numbers: Vec<u64> = words.map(|word| word.parse().unwrap()).collect();
        numbers.sort_unstable();
        numbers
    }

    /// Those that begin with this.
    pub fn of(&self, begin: &str) -> Vec<String> {
        self.all().into_iter().filter(|note| note.starts_with(begin)).collect()
    }
}
