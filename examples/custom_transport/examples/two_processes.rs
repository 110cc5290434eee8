//! Two processes that talk over the transport:
//! `cargo run -p lightbus-transport-pigeon --example two_processes`.
//!
//! It serves a loft, starts itself once more as the service, calls it and waits for its event.

use std::{
    error::Error,
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    time::Duration,
};

use lightbus::{config::Config, prelude::*};
use lightbus_transport_pigeon::{PigeonFactory, loft::Loft};
use tokio::sync::mpsc;

/// What the second process says when it serves.
const READY: &str = "the service is ready";

/// Pigeons and where they fly.
#[lightbus::api(name = "pigeons", events(Arrived))]
pub trait Pigeons {
    /// Sends a pigeon; returns how many are under way.
    async fn send(&self, to: String) -> u32;
}

/// A pigeon has arrived.
#[derive(Debug, lightbus::Event)]
pub struct Arrived {
    at: String,
    by_process: u32,
}

struct Service(Bus);

impl Pigeons for Service {
    async fn send(&self, to: String) -> u32 {
        let arrived = Arrived { at: to, by_process: std::process::id() };
        if let Err(error) = self.0.fire(arrived).await {
            eprintln!("{error}");
        }
        1
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    match std::env::args().nth(1).as_deref() {
        Some(loft) => serve(loft).await,
        None => talk().await,
    }
}

/// A bus with one more transport to choose from, over the loft at this address.
async fn bus(service: &str, loft: &str) -> lightbus::Result<Bus> {
    let registry = lightbus::registry().with(PigeonFactory::default());
    let config = Config::loader()
        .registry(registry.clone())
        .files([concat!(env!("CARGO_MANIFEST_DIR"), "/lightbus.yaml")])
        .environment([("LOFT", loft)])
        .load()?;
    Bus::builder().registry(registry).config(config).service_name(service).connect().await
}

/// The second process.
async fn serve(loft: &str) -> Result<(), Box<dyn Error>> {
    let bus = bus("pigeon_house", loft).await?;
    bus.serve(PigeonsApi(Service(bus.clone()))).await?;
    println!("{READY}");
    Ok(bus.run().await?)
}

/// The first process.
async fn talk() -> Result<(), Box<dyn Error>> {
    let server = Loft::new(None).serve("127.0.0.1:0").await?;
    let loft = server.address().to_string();
    let mut service =
        Command::new(std::env::current_exe()?).arg(&loft).stdout(Stdio::piped()).spawn()?;
    let said = service.stdout.take();
    let _service = Killed(service);
    // Until then there is no schema of it on the bus, by which calls are checked.
    let said = tokio::task::spawn_blocking(|| said.map(BufReader::new)?.lines().next()).await?;
    assert_eq!(said.transpose()?.as_deref(), Some(READY));
    let bus = bus("dispatcher", &loft).await?;
    let (arrived, mut arrivals) = mpsc::channel(1);
    bus.listen("print_arrivals", move |event: Arrived| {
        let arrived = arrived.clone();
        async move {
            let _ = arrived.send(event).await;
            Ok(())
        }
    })
    .await?;
    let under_way = PigeonsClient::new(&bus).send("Rome").await?;
    println!("{under_way} pigeon is under way, says another process");
    let event = tokio::time::timeout(Duration::from_secs(20), arrivals.recv()).await?;
    let Arrived { at, by_process } = event.ok_or("the listener ended")?;
    println!("process {} hears from process {by_process}: arrived at {at}", std::process::id());
    assert_ne!(by_process, std::process::id());
    Ok(bus.close().await?)
}

/// A process that ends with this one.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
