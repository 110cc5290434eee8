//! Warns about processes that share a listener's events without meaning to.
//!
//! Redis knows a group by its joined name and a consumer by its process's name, and hands events to
//! whoever asks. Two mistakes therefore go unnoticed: two services with groups of the same joined name
//! (`mail-order` with `confirm`, `mail` with `order-confirm`) each receive a part of the events; and two
//! processes with one configured name are one consumer, which reads what the other has pending, so that
//! both handle it.
//!
//! Each subscription leaves two keys that expire: which service and listener the group belongs to, and
//! which process is the consumer. The first to come keeps the group's key, and whoever finds another
//! there warns. A process that starts takes over the consumer's key, because a restart looks the same;
//! if the process before it is alive, that one finds the key taken, and warns. Python's processes leave
//! no keys and are not seen.

use std::{sync::Arc, time::Duration};

use lightbus_core::{Result, Upkeep, transport::GroupSpec};

use crate::{client::Client, error::Sent, value};

/// How long a key outlives the process that left it.
const EXPIRE: Duration = Duration::from_secs(600);
/// How often keys are renewed and compared.
const SHORTEST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(60);

/// Starts to compare, until what it returns is dropped. `token` tells this process from others of its
/// name.
pub(super) fn compare_presence(
    client: Arc<Client>,
    group: &GroupSpec,
    consumer: &str,
    token: String,
    interval: Duration,
) -> Upkeep {
    let interval = interval.clamp(SHORTEST, LONGEST);
    let joined = group.to_string();
    let ours = Presence {
        group: Mark {
            key: format!("{joined}:listener"),
            value: format!("{}\n{}", group.service, group.listener),
            warned: false,
        },
        consumer: Mark {
            key: format!("{joined}:consumer:{consumer}"),
            value: token,
            warned: false,
        },
        joined,
        takes_over: true,
    };
    Upkeep::start("comparing the keys of listeners", move || {
        let (client, mut ours) = (Arc::clone(&client), ours.clone());
        async move {
            loop {
                // The user may have no right to these keys, which nothing else needs.
                if let Err(error) = ours.compare(&client).await {
                    tracing::debug!(%error, "the keys of a listener cannot be compared");
                }
                tokio::time::sleep(interval).await;
            }
        }
    })
}

/// What a listener says of itself.
#[derive(Clone)]
struct Presence {
    joined: String,
    group: Mark,
    consumer: Mark,
    takes_over: bool,
}

impl Presence {
    /// Renews both keys, and warns of whoever else has one.
    async fn compare(&mut self, client: &Client) -> Result<()> {
        if let Some(other) = self.group.renew(client, false).await? {
            let (service, listener) = other.split_once('\n').unwrap_or((&other, ""));
            tracing::warn!(
                group = self.joined,
                service,
                listener,
                "another service and listener have a consumer group of the same name: each receives only a part of the events. Rename one of them"
            );
        }
        if self.consumer.renew(client, self.takes_over).await?.is_some() {
            tracing::warn!(
                group = self.joined,
                key = self.consumer.key,
                "another process listens under the same process name: events are handled twice. Give each process a name of its own"
            );
        }
        self.takes_over = false;
        Ok(())
    }
}

/// A key that says whose something is.
#[derive(Clone)]
struct Mark {
    key: String,
    value: String,
    warned: bool,
}

impl Mark {
    /// Renews the key, unless it says that another has it: then returns who, once.
    async fn renew(&mut self, client: &Client, takes_over: bool) -> Result<Option<String>> {
        let mut get = redis::cmd("GET");
        get.arg(&self.key);
        let found = client.command(&get, Sent::Harmless).await?;
        match value::text(&found).filter(|found| *found != self.value && !takes_over) {
            Some(other) => {
                let first = !std::mem::replace(&mut self.warned, true);
                Ok(first.then(|| other.to_owned()))
            }
            None => {
                self.warned = false;
                let mut set = redis::cmd("SET");
                set.arg(&self.key).arg(&self.value).arg("EX").arg(EXPIRE.as_secs());
                client.command(&set, Sent::Harmless).await?;
                Ok(None)
            }
        }
    }
}
