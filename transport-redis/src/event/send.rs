//! Fires events: many `XADD`s in a round trip.

use std::sync::Arc;

use lightbus_core::{Name, Result};
use redis::{Cmd, Pipeline, Value};

use crate::{
    batcher::BatchSender,
    client::Client,
    error::{Sent, odd_answer},
    link, value,
};

/// The encoded events of one caller.
pub(super) enum Outgoing {
    One(Cmd),
    Many(Vec<Cmd>),
}

impl Outgoing {
    fn len(&self) -> usize {
        match self {
            Self::One(_) => 1,
            Self::Many(commands) => commands.len(),
        }
    }
}

/// Sends events.
pub(super) struct EventSender(Arc<Client>);

impl EventSender {
    pub(super) fn new(client: Arc<Client>) -> Self {
        Self(client)
    }

    /// Splits the answers of Redis by caller, each of which sent this many events.
    fn split(
        &self,
        link: &Arc<link::Link>,
        sent: redis::RedisResult<Vec<Value>>,
        counts: impl ExactSizeIterator<Item = usize>,
    ) -> Vec<Result<Vec<Name>>> {
        match sent {
            Ok(answers) => {
                let mut answers = answers.into_iter();
                counts
                    .map(|count| {
                        let mut ids = Vec::with_capacity(count);
                        let mut failed = None;
                        for answer in answers.by_ref().take(count) {
                            match self.id(link, answer) {
                                Ok(id) => ids.push(id),
                                Err(error) => failed = Some(error),
                            }
                        }
                        match failed {
                            // Other events of the same caller may be stored.
                            Some(error) if !ids.is_empty() => {
                                Err(error.retry(lightbus_core::Retry::MayDuplicate))
                            }
                            Some(error) => Err(error),
                            None => Ok(ids),
                        }
                    })
                    .collect()
            }
            Err(error) => {
                let error = self.0.explain(link, error, Sent::Maybe);
                counts.map(|_| Err(error.clone())).collect()
            }
        }
    }

    fn id(&self, link: &Arc<link::Link>, answer: Value) -> Result<Name> {
        let answer = link::answer(answer).map_err(|error| self.0.explain(link, error, Sent::No))?;
        value::text(&answer).map(Name::from).ok_or_else(|| odd_answer("XADD", &answer))
    }
}

impl BatchSender for EventSender {
    type Item = Outgoing;
    type Answer = Vec<Name>;

    fn size(item: &Outgoing) -> usize {
        let size = |command: &Cmd| -> usize {
            command
                .args_iter()
                .map(|arg| match arg {
                    redis::Arg::Simple(bytes) => bytes.len(),
                    _ => 0,
                })
                .sum()
        };
        match item {
            Outgoing::One(command) => size(command),
            Outgoing::Many(commands) => commands.iter().map(size).sum(),
        }
    }

    async fn one(&self, item: Outgoing) -> Result<Vec<Name>> {
        let link = self.0.shared().await?;
        match item {
            Outgoing::One(command) => {
                let sent = link.command(&command).await;
                match sent {
                    Ok(answer) => self.id(&link, answer).map(|id| vec![id]),
                    Err(error) => Err(self.0.explain(&link, error, Sent::Maybe)),
                }
            }
            Outgoing::Many(_) => {
                self.many(vec![item]).await.pop().unwrap_or_else(|| Ok(Vec::new()))
            }
        }
    }

    async fn many(&self, items: Vec<Outgoing>) -> Vec<Result<Vec<Name>>> {
        let link = match self.0.shared().await {
            Ok(link) => link,
            Err(error) => return items.iter().map(|_| Err(error.clone())).collect(),
        };
        let counts: Vec<usize> = items.iter().map(Outgoing::len).collect();
        let mut pipeline = Pipeline::with_capacity(counts.iter().sum());
        for item in items {
            match item {
                Outgoing::One(command) => {
                    pipeline.add_command(command);
                }
                Outgoing::Many(commands) => {
                    for command in commands {
                        pipeline.add_command(command);
                    }
                }
            }
        }
        let sent = link.pipeline(&pipeline).await;
        self.split(&link, sent, counts.into_iter())
    }
}
