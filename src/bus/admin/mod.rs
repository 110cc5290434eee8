//! What operators and tools do.

mod dead_letters;
mod fire_on_behalf;
mod forget;
mod history;
mod locate;
mod schema_files;

pub use dead_letters::HandledDeadLetters;
pub use locate::{Diagnosis, Route};
