//! Listens to `auth` until Ctrl-C:
//! `LIGHTBUS_CONFIG=examples/redis.yaml cargo run --example another_service`.

mod auth;

use auth::UserRegistered;
use lightbus::prelude::*;

#[tokio::main]
async fn main() -> lightbus::Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    // The name is kept over restarts, so that what is fired meanwhile is waiting then.
    let bus = Bus::builder().service_name("another-service").connect().await?;
    bus.require_shared()?;
    bus.listen("print_on_new_registration", |user: UserRegistered| async move {
        println!("A new user registered: {} <{}>", user.username, user.email);
        Ok(())
    })
    .await?;
    bus.run().await
}
