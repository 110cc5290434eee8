//! Registers a user, and checks a password.

use hello_bus::AuthClient;
use lightbus::prelude::*;

#[tokio::main]
async fn main() -> lightbus::Result<()> {
    let bus = Bus::from_env().await?;
    bus.require_shared()?;
    let auth = AuthClient::new(&bus);
    println!("password valid: {}", auth.check_password("admin", "secret").await?);

    let email = std::env::args().nth(1).unwrap_or_else(|| "sally@example.com".to_owned());
    match auth.register("sally", email).await {
        Ok(()) => println!("registered"),
        Err(error) => println!("not registered: {error}"),
    }
    bus.close().await
}
