//! Waiting for what must happen, and names that no other test has.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    time::Duration,
};

use tokio::time::Instant;

/// Long enough for anything on a slow machine; only a test that fails waits for it.
pub const LIMIT: Duration = Duration::from_secs(60);

/// Waits until the condition holds, and fails with `what` if it never does.
pub async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let patience = Patience::of(LIMIT);
    while !condition().await {
        assert!(patience.lasts().await, "never happened: {what}");
    }
}

/// Looking again at what nothing announces, such as the state of another process.
#[derive(Debug)]
pub struct Patience(Instant);

impl Patience {
    /// Lasts so long from now.
    pub fn of(limit: Duration) -> Self {
        Self(Instant::now() + limit)
    }

    /// Waits until it is time to look again. Returns `false` when the time is up.
    pub async fn lasts(&self) -> bool {
        tokio::time::sleep(Duration::from_millis(5)).await;
        Instant::now() < self.0
    }
}

/// What a future that must end soon gives; a test fails with `what` if it does not end.
pub async fn soon<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, work).await.unwrap_or_else(|_| panic!("did not end: {what}"))
}

/// A name that no other test has, on brokers that are shared: letters, digits and dots.
#[must_use]
pub fn unique(name: &str) -> String {
    let random = RandomState::new().build_hasher().finish();
    format!("t{random:016x}.{name}")
}
