//! Publishing persistent messages with confirms, by a topic exchange into a quorum queue, those in
//! flight sharing a channel.

use lapin::Channel;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};

use super::{AmqpSite, event_properties};
use crate::{Caller, Load, Outcome, Processes, Result, closed_loop_in_one_task, payload};

const KEY: &str = "bench.changed";

struct Firer {
    channel: Channel,
    exchange: String,
    payload: Vec<u8>,
}

impl Caller for Firer {
    async fn call(&mut self) -> Result<u64> {
        let options = BasicPublishOptions::default();
        let (exchange, key) = (self.exchange.as_str().into(), KEY.into());
        let publish =
            self.channel.basic_publish(exchange, key, options, &self.payload, event_properties());
        if publish.await?.await?.is_ack() { Ok(1) } else { Err("it was refused".into()) }
    }
}

pub(crate) async fn measure(site: &AmqpSite, callers: usize, load: Load) -> Result<Outcome> {
    let (_connection, channel) = site.channel().await?;
    site.declare(&channel, true).await?;
    let exchange = site.bind(&channel, KEY).await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let firer = || Firer {
        channel: channel.clone(),
        exchange: exchange.clone(),
        payload: payload::text(site.bytes).into_bytes(),
    };
    let firers = std::iter::repeat_with(firer).take(callers).collect();
    let outcome = closed_loop_in_one_task(firers, load, Processes::of_client()).await;
    site.unbind(&channel, &exchange).await?;
    site.delete().await?;
    outcome
}
