//! Service and caller in one process, in memory.

use hello_bus::{AuthApi, AuthClient, Service};
use lightbus::prelude::*;

#[tokio::main]
async fn main() -> lightbus::Result<()> {
    let bus = Bus::in_memory().await?;
    bus.serve(AuthApi(Service { bus: bus.clone() })).await?;

    let auth = AuthClient::new(&bus);
    println!("secret: {}", auth.check_password("admin", "secret").await?);
    println!("guess: {}", auth.check_password("admin", "guess").await?);
    bus.close().await
}
