//! Listens to `auth` until Ctrl-C:
//! `LIGHTBUS_CONFIG=examples/redis.yaml cargo run --example another_service`.

mod auth;

use auth::UserRegistered;
use lightbus::prelude::*;

#[tokio::main]
async fn main() -> lightbus::Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    // A fixed name: events fired while this process is down are delivered when it is back.
    let bus = Bus::builder().service_name("another-service").connect().await?;
    bus.require_shared()?;
    bus.listen("print_on_new_registration", |user: UserRegistered| async move {
        println!("A new user registered: {} <{}>", user.username, user.email);
        Ok(())
    })
    .await?;
    bus.run().await
}
