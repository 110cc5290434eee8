//! Consuming from a quorum queue that was filled before, a hundred at a time, each hundred with one
//! acknowledgement. A backlog is read once; what is left of the time counts nothing, so it is as
//! large as the bus's.

use std::time::Instant;

use futures_util::future::join_all;
use futures_util::{FutureExt, StreamExt};
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions,
    ConfirmSelectOptions,
};
use lapin::types::FieldTable;

use super::{AmqpSite, event_properties};
use crate::cpu::Usage;
use crate::driver::{Latencies, Samples};
use crate::{Outcome, Processes, Result, payload};

const HUNDRED: usize = 100;
const PREFETCH: u16 = 1000;

pub(crate) async fn measure(site: &AmqpSite) -> Result<Outcome> {
    let (_connection, channel) = site.channel().await?;
    site.declare(&channel, true).await?;
    let messages = fill(site).await?;
    channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
    let options = BasicConsumeOptions::default();
    let mut consumer = channel
        .basic_consume(site.queue().into(), "".into(), options, FieldTable::default())
        .await?;
    let processes = Processes::of_client();
    let latencies = Latencies::new()?;
    let mut samples = Samples::new(latencies.clone());
    let first = messages / 10;
    let mut began: Option<(Instant, Usage)> = None;
    let (mut read, mut unacknowledged, mut hundred) = (0, 0, Instant::now());
    while read < messages {
        let Some(message) = consumer.next().await else { return Err("it has ended".into()) };
        let mut message = message?;
        loop {
            read += 1;
            unacknowledged += 1;
            if unacknowledged == HUNDRED || read == messages {
                let ack =
                    channel.basic_ack(message.delivery_tag, BasicAckOptions { multiple: true });
                ack.await?;
                unacknowledged = 0;
                if began.is_some() {
                    samples.push(hundred.elapsed());
                }
                hundred = Instant::now();
            }
            if read == first {
                began = Some((Instant::now(), processes.usage()));
            }
            match consumer.next().now_or_never() {
                Some(Some(next)) => message = next?,
                _ => break,
            }
        }
    }
    let (ended, after) = (Instant::now(), processes.usage());
    drop(samples);
    site.delete().await?;
    let Some((start, before)) = began else { return Err("nothing was measured".into()) };
    let operations = (messages - first) as u64;
    let duration = ended - start;
    Ok(Outcome {
        operations,
        duration,
        latencies: latencies.take()?,
        cpu: after.per_op_since(&before, operations as f64 / duration.as_secs_f64()),
        other_cores: after.other_cores_since(&before),
    })
}

/// Fills the queue, and says how many messages it has.
async fn fill(site: &AmqpSite) -> Result<usize> {
    const MOST_MESSAGES: usize = 100_000;
    const MOST_BYTES: usize = 64 << 20;
    const AT_A_TIME: usize = 500;
    let messages = (MOST_BYTES / site.bytes.max(1)).min(MOST_MESSAGES);
    let (connection, channel) = site.channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let text = payload::text(site.bytes);
    for first in (0..messages).step_by(AT_A_TIME) {
        let publish = |_| async {
            let properties = event_properties();
            let options = BasicPublishOptions::default();
            let key = site.queue().into();
            channel.basic_publish("".into(), key, options, text.as_bytes(), properties).await?.await
        };
        for confirmed in join_all((first..messages.min(first + AT_A_TIME)).map(publish)).await {
            confirmed?;
        }
    }
    connection.close(200, "filled".into()).await?;
    Ok(messages)
}
