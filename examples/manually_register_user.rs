//! Fires `auth.user_registered`:
//! `LIGHTBUS_CONFIG=examples/redis.yaml cargo run --example manually_register_user [USER EMAIL]`.

mod auth;

use auth::{AuthClient, UserRegistered};
use lightbus::prelude::*;

#[tokio::main]
async fn main() -> lightbus::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let username = arguments.next().unwrap_or_else(|| "admin".to_owned());
    let email = arguments.next().unwrap_or_else(|| "admin@example.com".to_owned());

    let bus = Bus::from_env().await?;
    bus.require_shared()?;
    // Only an authority of an API may fire its events: this process stands in for the service.
    bus.register(AuthClient::contract()).await?;
    let fired = bus.fire(UserRegistered { username, email }).await?;
    println!("Fired auth.user_registered, id {}", fired.id);
    bus.close().await
}
