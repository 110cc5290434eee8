//! Serves `auth` until Ctrl-C.

use hello_bus::{AuthApi, Service};
use lightbus::prelude::*;

#[tokio::main]
async fn main() -> lightbus::Result<()> {
    let bus = Bus::builder().service_name("auth").connect().await?;
    bus.require_shared()?;
    bus.serve(AuthApi(Service { bus: bus.clone() })).await?;
    bus.run().await
}
