//! From the options to a configuration and a bus.

use std::time::Duration;

use lightbus::{Bus, BusBuilder, Result, config::Config};

use crate::cli::Global;

/// What may hold up the end: this tool serves nobody.
const DRAIN: Duration = Duration::from_secs(2);

/// The configuration that `--config` names, else `LIGHTBUS_CONFIG`.
pub(crate) fn config(global: &Global) -> Result<Config> {
    let loader = Config::loader();
    match &global.config {
        Some(files) => loader.files([files.as_str()]).load(),
        None => loader.load(),
    }
}

/// A bus that other processes reach: alone, nothing of this tool makes sense.
pub(crate) async fn bus(global: &Global) -> Result<Bus> {
    bus_of(global, "lightbus-cli").await
}

/// The same, as a part of this service.
pub(crate) async fn bus_of(global: &Global, service: &str) -> Result<Bus> {
    let bus = builder(global).await?.service_name(service).connect().await?;
    bus.require_shared()?;
    Ok(bus)
}

/// A bus that may be one of memory.
pub(crate) async fn builder(global: &Global) -> Result<BusBuilder> {
    let global = global.clone();
    // It may be fetched from a web server, which blocks.
    let config = tokio::task::spawn_blocking(move || config(&global)).await;
    let config = config.unwrap_or_else(|error| {
        Err(lightbus::Error::new(
            lightbus::ErrorKind::Unexpected,
            "reading the configuration did not end",
        )
        .because(error))
    })?;
    Ok(Bus::builder().config(config).drain_timeout(DRAIN))
}
