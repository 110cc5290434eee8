//! Ports for servers.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    net::{Ipv4Addr, TcpListener},
};

/// A port at which nothing listens at the moment, below those that the system hands out by itself: no
/// connection of another test takes it before a server does, nor while that server restarts. A node
/// of a Redis cluster takes the one 10,000 above, too.
#[must_use]
pub fn free_port() -> u16 {
    loop {
        let random = RandomState::new().build_hasher().finish();
        let port = 10_000 + u16::try_from(random % 12_000).unwrap();
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}
