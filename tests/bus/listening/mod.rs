//! Listening: order by key, batches, failures, and what is listened to, on every transport by the
//! same source.

mod batches;
mod contracts;
mod control;
mod dead_letters;
mod equal_names;
mod failures;
mod keys;
mod order;
mod outages;
mod panics;
mod selection;
mod sharing;
