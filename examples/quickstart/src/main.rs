//! Service, caller and listener in one process, in memory: `cargo run -p quickstart`.

use lightbus::prelude::*;

/// Users and their passwords.
#[lightbus::api(name = "auth", events(UserRegistered))]
pub trait Auth {
    /// Returns whether this is the user's password.
    async fn check_password(&self, username: String, password: String) -> bool;
}

/// A user has registered.
#[derive(Debug, lightbus::Event)]
pub struct UserRegistered {
    username: String,
    email: String,
}

struct Service;

impl Auth for Service {
    async fn check_password(&self, username: String, password: String) -> bool {
        username == "admin" && password == "secret"
    }
}

#[tokio::main]
async fn main() -> lightbus::Result<()> {
    let bus = Bus::in_memory().await?;
    bus.serve(AuthApi(Service)).await?;
    bus.listen("print_on_new_registration", |user: UserRegistered| async move {
        println!("{} <{}> has registered", user.username, user.email);
        Ok(())
    })
    .await?;
    for password in ["secret", "guess"] {
        let valid = AuthClient::new(&bus).check_password("admin", password).await?;
        println!("Password {}!", if valid { "valid" } else { "not valid" });
    }
    bus.fire(UserRegistered { username: "sally".into(), email: "sally@example.com".into() })
        .await?;
    bus.wait_until_idle().await?;
    bus.close().await
}
