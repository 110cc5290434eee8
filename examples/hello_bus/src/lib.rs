//! The contract of `auth`, and the service that implements it.

mod service;

pub use service::Service;

/// Users and their passwords.
#[lightbus::api(name = "auth", events(UserRegistered))]
pub trait Auth {
    /// Returns whether this is the user's password.
    async fn check_password(&self, username: String, password: String) -> bool;

    /// Registers a user, and fires `auth.user_registered`.
    async fn register(&self, username: String, email: String) -> Result<(), String>;
}

/// A user has registered.
#[derive(Clone, Debug, PartialEq, lightbus::Event)]
pub struct UserRegistered {
    /// The name that the user chose.
    pub username: String,
    /// The user's email address.
    pub email: String,
}
