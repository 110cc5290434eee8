//! Service, caller and listener in one process, in memory: `cargo run --example quickstart`.

use lightbus::prelude::*;

/// Who is who.
#[lightbus::api(name = "auth", events(UserRegistered))]
pub trait Auth {
    /// Whether this is the user's password.
    async fn check_password(&self, username: String, password: String) -> bool;
}

/// Somebody has signed up.
#[derive(lightbus::Event)]
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
    let stop = bus.clone();
    bus.listen("print_on_new_registration", move |user: UserRegistered| {
        println!("{} <{}> has registered", user.username, user.email);
        stop.shut_down();
        async { Ok(()) }
    })
    .await?;

    let auth = AuthClient::new(&bus);
    for password in ["secret", "guess"] {
        let valid = auth.check_password("admin", password).await?;
        println!("Password {}!", if valid { "valid" } else { "not valid" });
    }
    bus.fire(UserRegistered {
        username: "sally".into(),
        email: "sally@example.com".into(),
    })
    .await?;
    bus.run().await
}
