//! The lifetime of a process: starting, hooks, tasks, health, draining, closing.

mod drain;
mod health;
mod hooks;
mod idle;
mod renewal;
mod run;
mod signals;
mod startup;
mod tasks;

pub use health::{Health, Life};
pub use tasks::Task;

pub(crate) use renewal::keep_schemas;
