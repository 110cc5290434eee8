//! The contract of `auth`, which the examples share.
#![allow(unreachable_pub, dead_code, reason = "each example uses a part of it")]

/// Users and their passwords.
#[lightbus::api(name = "auth", events(UserRegistered))]
pub trait Auth {
    /// Returns whether this is the user's password.
    async fn check_password(&self, username: String, password: String) -> bool;
}

/// A user has registered.
#[derive(Debug, lightbus::Event)]
pub struct UserRegistered {
    /// The name that the user chose.
    pub username: String,
    /// The user's email address.
    pub email: String,
}
