//! A message bus for Rust services.
