//! What a bus costs is only to be seen next to what its broker's client can do.
//!
//! This package measures the crates `redis` and `lapin` sending the commands that lightbus sends and
//! doing nothing else, and the same calls within one process over channels. Its binary prints a JSON
//! line for each measurement.
//!
//! The pieces to measure with are public, so that the benchmarks of the bus itself give lines of
//! the same form and can take turns with the measurements here:
//!
//! - [`driver`]: callers that call again as soon as they have their answer ([`Caller`],
//!   [`closed_loop`], [`closed_loop_in_one_task`]), giving an [`Outcome`];
//! - [`record`]: the line, [`Measurement`];
//! - [`cpu`]: CPU time of client, server and broker ([`Processes`]);
//! - [`peer`]: the other process, this executable started again ([`Peer`]);
//! - [`options`]: the command line that all benchmarks share ([`Options`], [`Serve`]);
//! - [`payload`]: what is sent;
//! - [`broker`]: connecting to Redis, and finding its process;
//! - [`suite`]: the measurements of this package ([`Case`]), to run one at a time.
//!
//! A benchmark of the bus in outline:
//!
//! ```no_run
//! use std::time::Duration;
//! use lightbus_bench_raw::{Caller, Label, Load, Processes, Result, closed_loop};
//!
//! struct Add;
//!
//! impl Caller for Add {
//!     async fn call(&mut self) -> Result<u64> {
//!         // ... one call, awaited ...
//!         Ok(1)
//!     }
//! }
//!
//! # async fn measure() -> Result<()> {
//! let load = Load { warmup: Duration::from_millis(500), duration: Duration::from_secs(3) };
//! let callers = (0..256).map(|_| Add).collect();
//! let outcome = closed_loop(callers, load, Processes::of_client()).await?;
//! let label = Label { name: "bus.memory.rpc".into(), callers: 256, bytes: 100, threads: None, round: 0 };
//! println!("{}", outcome.measurement(label).to_line());
//! # Ok(())
//! # }
//! ```

pub mod broker;
pub mod cpu;
pub mod driver;
pub mod options;
pub mod payload;
pub mod peer;
pub mod record;
pub mod suite;

mod amqp;
mod backlog;
mod kafka;
mod memory_event;
mod memory_rpc;
mod redis_event;
mod redis_rpc;

pub use broker::Broker;
pub use cpu::Processes;
pub use driver::{Caller, Load, Outcome, closed_loop, closed_loop_in_one_task};
pub use options::{Options, Serve};
pub use peer::Peer;
pub use record::{CpuPerOp, Label, Measurement};
pub use suite::Case;

/// Whatever stops a measurement.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// The result of anything in a measurement.
pub type Result<T> = std::result::Result<T, Error>;
