//! What tests of services share: buses on every transport, and child processes whose output is awaited
//! line by line. Brokers are found and started by `lightbus-test-brokers`.
#![allow(clippy::unwrap_used, reason = "in a test a panic is how a failure is told")]
#![allow(missing_docs, missing_debug_implementations, reason = "for tests only")]

mod place;
mod program;
pub mod python;
pub mod scripted;

use std::{
    fs,
    path::{Path, PathBuf},
};

pub use lightbus_test_brokers::{
    Fault, LIMIT, Patience, Proxy, RedisServer, eventually, free_port, soon, unique,
};
pub use place::{Place, kafka_yaml, redis_bus, redis_yaml};
pub use program::Program;

/// The folder of the repository.
pub fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// A configuration file for this Redis, as an operator writes one, beside its data.
pub fn config_file(server: &RedisServer) -> PathBuf {
    let path = server.folder().join("lightbus.yaml");
    fs::write(&path, redis_yaml(&server.url(), "")).unwrap();
    path
}

/// Makes of each case a test per transport: `memory::case`, `redis::case`, and with their features
/// `amqp::case` and `kafka::case`.
#[macro_export]
macro_rules! on_every_transport {
    ($($case:ident),* $(,)?) => {
        mod memory {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                if let Some(place) = $crate::Place::memory() {
                    super::$case(place).await;
                }
            })*
        }
        mod redis {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                if let Some(place) = $crate::Place::redis() {
                    super::$case(place).await;
                }
            })*
        }
        #[cfg(feature = "amqp")]
        mod amqp {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                if let Some(place) = $crate::Place::amqp() {
                    super::$case(place).await;
                }
            })*
        }
        #[cfg(feature = "kafka")]
        mod kafka {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                if let Some(place) = $crate::Place::kafka() {
                    super::$case(place).await;
                }
            })*
        }
    };
}
