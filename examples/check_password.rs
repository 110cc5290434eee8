//! Calls `auth`: `LIGHTBUS_CONFIG=examples/redis.yaml cargo run --example check_password [USER PASSWORD]`.

mod auth;

use auth::AuthClient;
use lightbus::prelude::*;

#[tokio::main]
async fn main() -> lightbus::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let username = arguments.next().unwrap_or_else(|| "admin".to_owned());
    let password = arguments.next().unwrap_or_else(|| "secret".to_owned());

    let bus = Bus::from_env().await?;
    bus.require_shared()?;
    if AuthClient::new(&bus).check_password(username, password).await? {
        println!("Password valid!");
    } else {
        println!("Oops, bad username or password");
    }
    bus.close().await
}
