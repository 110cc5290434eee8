//! A process of the fleet: it listens and works, until it is killed.

use std::{path::PathBuf, sync::Arc, time::Duration};

use lightbus::{config::Config, prelude::*};

use crate::{
    Options, Result,
    contract::{Kind, LISTENER, SERVICE, Soak, SoakApi, Work},
    journal::{self, Journal},
};

/// Events handled at once by each process.
pub(crate) const CONCURRENCY: usize = 4;

struct Worker;

impl Soak for Worker {
    async fn double(&self, number: u64) -> u64 {
        number.wrapping_mul(2)
    }
}

struct Handler {
    handled: Journal,
    begun: Journal,
    outage: PathBuf,
}

impl Handler {
    async fn handle(&self, work: &Work) -> HandlerResult {
        self.begun.add(&work.number.to_string())?;
        match work.kind {
            Kind::Poison => std::process::abort(),
            Kind::Instant => {}
            Kind::Quick => tokio::time::sleep(Duration::from_millis(50)).await,
            Kind::Slow => tokio::time::sleep(Duration::from_secs(1)).await,
        }
        if self.outage.exists() {
            return Err("the database is away".into());
        }
        self.handled.add(&work.number.to_string())?;
        Ok(())
    }
}

pub(crate) async fn run(options: &Options, number: usize) -> Result<()> {
    let folder = &options.folder;
    let bus = Bus::builder()
        .config(Config::load([&*options.config])?)
        .service_name(SERVICE)
        .process_name(format!("soak-{number}"))
        .connect()
        .await?;
    let handler = Arc::new(Handler {
        handled: Journal::open(&journal::handled(folder, number))?,
        begun: Journal::open(&journal::begun(folder, number))?,
        outage: journal::outage(folder),
    });
    bus.serve(SoakApi(Worker)).await?;
    bus.listen(LISTENER, move |work: Work| {
        let handler = Arc::clone(&handler);
        async move { handler.handle(&work).await }
    })
    .concurrency(CONCURRENCY)
    .await?;
    let path = journal::health(folder, number);
    bus.every("health", Duration::from_millis(500), move |bus| {
        let path = path.clone();
        async move {
            // Whole or not at all for whoever reads it.
            let next = path.with_extension("next");
            std::fs::write(&next, serde_json::to_vec(&bus.health())?)?;
            std::fs::rename(&next, &path)?;
            Ok(())
        }
    })
    .await?;
    Ok(bus.run().await?)
}
