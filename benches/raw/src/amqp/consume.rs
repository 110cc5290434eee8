//! Consuming from a quorum queue that was filled before, a hundred at a time, each hundred with one
//! acknowledgement.

use futures_util::future::join_all;
use futures_util::{FutureExt, StreamExt};
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions,
    ConfirmSelectOptions,
};
use lapin::types::FieldTable;

use super::{AmqpSite, event_properties};
use crate::backlog::{self, Backlog, SENT_AT_ONCE};
use crate::{Outcome, Result, payload};

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
    let mut backlog = Backlog::of(messages)?;
    while !backlog.is_read() {
        let Some(message) = consumer.next().await else { return Err("it has ended".into()) };
        let mut message = message?;
        loop {
            if backlog.note() {
                let ack =
                    channel.basic_ack(message.delivery_tag, BasicAckOptions { multiple: true });
                ack.await?;
                backlog.acknowledged();
            }
            match consumer.next().now_or_never() {
                Some(Some(next)) => message = next?,
                _ => break,
            }
        }
    }
    let outcome = backlog.outcome()?;
    site.delete().await?;
    Ok(outcome)
}

/// Fills the queue, and says how many messages it has.
async fn fill(site: &AmqpSite) -> Result<usize> {
    let messages = backlog::size(site.bytes);
    let (connection, channel) = site.channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let text = payload::text(site.bytes);
    for first in (0..messages).step_by(SENT_AT_ONCE) {
        let publish = |_| async {
            let properties = event_properties();
            let options = BasicPublishOptions::default();
            let key = site.queue().into();
            channel.basic_publish("".into(), key, options, text.as_bytes(), properties).await?.await
        };
        for confirmed in join_all((first..messages.min(first + SENT_AT_ONCE)).map(publish)).await {
            confirmed?;
        }
    }
    connection.close(200, "filled".into()).await?;
    Ok(messages)
}
