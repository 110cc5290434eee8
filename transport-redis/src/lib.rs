//! The Redis transport of lightbus, wire-compatible with Python's Lightbus.
