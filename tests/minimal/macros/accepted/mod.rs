//! What the macros accept: it compiles without a warning, and works.

pub mod api;
pub mod api_error;
pub mod event;
pub mod places;
pub mod refusals;
