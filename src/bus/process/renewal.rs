//! Keeping schemas fresh.

use std::{sync::Arc, time::Duration};

use lightbus_core::{Backoff, time::after};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use crate::{
    bus::shared::{Phase, drained},
    schema::SchemaStore,
};

/// The part of a schema's time to live after which it is renewed.
const RENEWED_AFTER: f64 = 0.8;
/// Renewed no more often than this, however short the time to live is.
const SHORTEST: Duration = Duration::from_millis(50);
/// The first and the longest delay before a failed renewal is retried.
const FIRST_RETRY: Duration = Duration::from_millis(500);
const LONGEST_RETRY: Duration = Duration::from_secs(10);

/// Renews the schemas of this process and reads those of others periodically, until the bus drains. What
/// fails is retried with exponential backoff, without waiting for the next period.
pub(crate) async fn keep_schemas(store: Arc<SchemaStore>, mut phase: watch::Receiver<Phase>) {
    let period = store.ttl().mul_f64(RENEWED_AFTER).max(SHORTEST);
    let mut retries = Backoff::new(FIRST_RETRY.min(period), LONGEST_RETRY.min(period));
    let mut due = after(Instant::now(), period);
    let mut again = due;
    let mut failed = Vec::new();
    loop {
        tokio::select! {
            () = drained(&mut phase) => return,
            () = sleep_until(due.min(again)) => {}
        }
        if Instant::now() >= due {
            due = after(Instant::now(), period);
            failed = store.published();
        }
        let errors = store.renew(failed).await;
        let mut works = errors.is_empty();
        failed = Vec::with_capacity(errors.len());
        for (api, schema, error) in errors {
            tracing::warn!(%api, %error, "cannot renew the schema; trying again");
            failed.push((api, schema));
        }
        if let Err(error) = store.load().await {
            tracing::warn!(%error, "cannot read the schemas on the bus; trying again");
            works = false;
        }
        if works {
            retries.succeeded();
            again = due;
        } else {
            again = after(Instant::now(), retries.failed());
        }
    }
}
