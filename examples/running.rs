//! Hooks, scheduled and background tasks: `cargo run --example running`. It ends after 700 ms.

use std::time::Duration;

use lightbus::prelude::*;

#[tokio::main]
async fn main() -> lightbus::Result<()> {
    let bus = Bus::in_memory().await?;
    bus.on_start(|bus| async move {
        println!("{} begins", bus.service_name());
        Ok(())
    });
    bus.on_stop(|_| async {
        println!("good bye");
        Ok(())
    });
    bus.every("beat", Duration::from_millis(200), |_| async {
        println!("tick");
        Ok(())
    })
    .immediately()
    .await?;
    bus.background("end", |bus| async move {
        tokio::time::sleep(Duration::from_millis(700)).await;
        println!("healthy: {}", bus.health().healthy);
        // The same as SIGTERM.
        bus.shut_down();
        Ok(())
    })
    .await?;
    bus.run().await
}
