//! The implementation of `auth`.

use lightbus::prelude::*;

use crate::{Auth, UserRegistered};

/// The implementation of [`Auth`].
#[derive(Debug)]
pub struct Service {
    /// Fires the events.
    pub bus: Bus,
}

impl Auth for Service {
    async fn check_password(&self, username: String, password: String) -> bool {
        username == "admin" && password == "secret"
    }

    async fn register(&self, username: String, email: String) -> Result<(), String> {
        if !email.contains('@') {
            return Err(format!("{email} is not an email address"));
        }
        let fired = self.bus.fire(UserRegistered { username, email }).await;
        fired.map(|_| ()).map_err(|error| error.to_string())
    }
}
