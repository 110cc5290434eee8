//! The testing kit, as authors of services use it. With
//! `LIGHTBUS_TEST_CONFIG` the same tests run on a broker.

mod asserting;
mod broker;
mod contracts;
mod faults;
mod guide;
mod mocking;
mod processes;
mod settling;
