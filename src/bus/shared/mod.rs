//! What all parts of the bus use: the state of a process, the transports of its APIs, consuming, and
//! the progress of its workers, listeners and tasks. Imports none of those parts.

mod apis;
mod consumer;
mod features;
mod guarantees;
mod handler_error;
mod ids;
mod inner;
mod limits;
mod listening;
mod plugin_chain;
mod progress;
mod reservation;
mod supervise;
mod watchdog;

pub use features::Features;
pub use handler_error::{HandlerError, HandlerResult};
pub use inner::Bus;
pub use progress::{Condition, PartHealth, PartKind};

pub(crate) use apis::{ApiEntry, Apis, at, check_named, schema_transport};
pub(crate) use consumer::{consume, cut_off, drained, until_cut_off};
pub(crate) use ids::Ids;
#[cfg(feature = "testing")]
pub(crate) use inner::TestProbe;
pub(crate) use inner::{GRACE, Hook, Inner, Phase, State};
pub(crate) use lightbus_core::catch_panic;
pub(crate) use listening::Listening;
pub(crate) use plugin_chain::PluginChain;
pub(crate) use progress::{Held, InProgress, Progress};
pub(crate) use supervise::supervise;
pub(crate) use watchdog::watch_over;
