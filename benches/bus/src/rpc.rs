//! Calls to another process, by the typed client.

use lightbus::Bus;
use lightbus_bench_raw::{Caller, Load, Outcome, Peer, Result, closed_loop, payload, peer};

use crate::contract::{BenchApi, BenchClient, Echo, Item, items};
use crate::suite::Site;

/// What a call carries, there and back.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Arguments {
    /// One text.
    Text,
    /// A list of structures.
    Items,
}

pub(crate) async fn measure(
    site: &Site,
    peer: &Peer,
    arguments: Arguments,
    callers: usize,
    load: Load,
) -> Result<(Outcome, Option<usize>)> {
    let others = site.beneath.connections().await?;
    let bus = site.bus().await?;
    let processes = site.beneath.processes(Some(peer));
    let outcome =
        call(&bus, arguments, callers, site.bytes, |callers| closed_loop(callers, load, processes))
            .await?;
    let connections = site.beneath.connections().await?;
    bus.close().await?;
    let own = connections.zip(others).map(|(all, others)| all.saturating_sub(others));
    Ok((outcome, own))
}

/// Has so many callers call over this bus.
pub(crate) async fn call(
    bus: &Bus,
    arguments: Arguments,
    callers: usize,
    bytes: usize,
    run: impl AsyncFnOnce(Vec<BusCaller>) -> Result<Outcome>,
) -> Result<Outcome> {
    let caller = || BusCaller {
        client: BenchClient::new(bus),
        what: match arguments {
            Arguments::Text => What::Text(payload::text(bytes)),
            Arguments::Items => What::Items(items(bytes)),
        },
    };
    run(std::iter::repeat_with(caller).take(callers).collect()).await
}

/// The other process.
pub(crate) async fn serve(site: &Site) -> Result<()> {
    let bus = site.bus().await?;
    bus.serve(BenchApi(Echo)).await?;
    peer::ready_until_left().await;
    bus.close().await?;
    Ok(())
}

pub(crate) struct BusCaller {
    client: BenchClient,
    what: What,
}

enum What {
    Text(String),
    Items(Vec<Item>),
}

impl Caller for BusCaller {
    async fn call(&mut self) -> Result<u64> {
        let right = match &self.what {
            What::Text(text) => self.client.echo(text.as_str()).await?.len() == text.len(),
            What::Items(items) => self.client.items(items.clone()).await?.len() == items.len(),
        };
        if right { Ok(1) } else { Err("not the result of the call".into()) }
    }
}
