//! Welcomes whoever registers, until Ctrl-C.

use hello_bus::UserRegistered;
use lightbus::prelude::*;

#[tokio::main]
async fn main() -> lightbus::Result<()> {
    let bus = Bus::builder().service_name("mailer").connect().await?;
    bus.require_shared()?;
    bus.listen("welcome", |user: UserRegistered| async move {
        println!("welcome, {} <{}>", user.username, user.email);
        Ok(())
    })
    .await?;
    bus.run().await
}
