//! Serves `auth` until Ctrl-C: `LIGHTBUS_CONFIG=examples/redis.yaml cargo run --example auth_service`.

mod auth;

use auth::{Auth, AuthApi};
use lightbus::prelude::*;

struct Service;

impl Auth for Service {
    async fn check_password(&self, username: String, password: String) -> bool {
        username == "admin" && password == "secret"
    }
}

#[tokio::main]
async fn main() -> lightbus::Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let bus = Bus::from_env().await?;
    bus.require_shared()?;
    bus.serve(AuthApi(Service)).await?;
    bus.run().await
}
