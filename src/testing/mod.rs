//! Testing services without a broker, without waiting, and with injected faults.
//!
//! A [`TestBus`] is a bus in memory with tokio's time paused. Procedures of other services are
//! [mocked](TestBus::mock), events are [recorded](TestBus::fired), and
//! [`wait_until_idle`](TestBus::wait_until_idle) waits until nothing is in flight. [`Faults`] delays,
//! drops, duplicates and redelivers messages, reproducibly by a seed. With `LIGHTBUS_TEST_CONFIG` set,
//! the same tests run on a broker.
//!
//! Needs the cargo feature `testing`:
//!
//! ```toml
//! [dev-dependencies]
//! lightbus = { version = "0.1", features = ["testing"] }
//! ```
//!
//! ```
//! use lightbus::{prelude::*, testing::TestBus};
//! # #[lightbus::api(name = "auth", events(UserRegistered))]
//! # pub trait Auth { async fn check_password(&self, username: String, password: String) -> bool; }
//! # #[derive(lightbus::Event)] pub struct UserRegistered { pub username: String }
//! # #[lightbus::api(name = "mail", events(MailSent))] pub trait Mail {}
//! # #[derive(lightbus::Event)] pub struct MailSent { pub to: String }
//! /// The code under test: takes a bus, and does not know that it is tested.
//! async fn start(bus: &Bus) -> lightbus::Result<()> {
//!     bus.register(MailClient::contract()).await?;
//!     let sender = bus.clone();
//!     bus.listen("welcome", move |user: UserRegistered| {
//!         let bus = sender.clone();
//!         async move {
//!             bus.fire(MailSent { to: user.username }).await?;
//!             Ok(())
//!         }
//!     })
//!     .await
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> lightbus::Result<()> {
//! let test = TestBus::start().await?;
//! start(&test).await?;
//! test.fire_from_outside(UserRegistered { username: "sally".into() }).await?;
//! test.wait_until_idle().await?;
//! test.assert_fired_event(MailSent { to: "sally".into() });
//! # Ok(()) }
//! ```

mod assertions;
mod called;
mod clock;
#[cfg(test)]
mod conformance;
mod faults;
mod idle;
mod in_flight;
mod intercept;
mod isolate;
mod layer;
mod mock;
mod mocks;
mod record;
mod spy;
mod start;
mod test_state;

pub use called::Called;
pub use faults::{Fault, Faults, SEED_VARIABLE, SeedGuard};
pub use mock::{Declared, Mock, MockApi, MockByName, Mocked, Reply};
pub use start::{CONFIG_VARIABLE, TestBus, TestBusBuilder};
