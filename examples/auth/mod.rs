//! The contract that the examples share: what `auth` can do, and what it tells.
#![allow(unreachable_pub, dead_code, reason = "each example uses a part of it")]

/// Who is who.
#[lightbus::api(name = "auth", events(UserRegistered))]
pub trait Auth {
    /// Whether this is the user's password.
    async fn check_password(&self, username: String, password: String) -> bool;
}

/// Somebody has signed up.
#[derive(Debug, lightbus::Event)]
pub struct UserRegistered {
    /// The name that was chosen.
    pub username: String,
    /// Where to write to.
    pub email: String,
}
