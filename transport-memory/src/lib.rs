//! The transport of lightbus that stays inside one process.
