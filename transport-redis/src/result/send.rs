//! Sends results to the lists that their callers read.

use std::sync::Arc;

use lightbus_core::{Result, ReturnPath};
use redis::{Cmd, Pipeline};

use super::RETURN_SCHEME;
use crate::{batcher::BatchSender, client::Client, error::Sent, link};

/// An encoded result.
pub(super) struct Outgoing {
    pub(super) to: ReturnPath,
    pub(super) payload: Vec<u8>,
}

impl Outgoing {
    /// Returns the list that its caller reads.
    fn key(&self) -> &str {
        self.to.as_str().strip_prefix(RETURN_SCHEME).unwrap_or_default()
    }
}

/// Sends results: one `LPUSH` and one `EXPIRE` for each list.
pub(super) struct ResultSender {
    client: Arc<Client>,
    ttl: u32,
}

impl ResultSender {
    pub(super) fn new(client: Arc<Client>, ttl: u32) -> Self {
        Self { client, ttl: ttl.max(1) }
    }

    async fn push(&self, results: &[Outgoing]) -> Vec<Result<()>> {
        // The lists, and which results go to each. Mostly few.
        let mut lists: Vec<(&str, Cmd, Vec<usize>)> = Vec::new();
        for (index, result) in results.iter().enumerate() {
            match lists.iter_mut().find(|(key, ..)| *key == result.key()) {
                Some((_, push, members)) => {
                    push.arg(&result.payload);
                    members.push(index);
                }
                None => {
                    let rest = &results[index..];
                    let size = rest.iter().map(|result| result.payload.len()).sum::<usize>();
                    let mut push = Cmd::with_capacity(2 + rest.len(), 64 + size);
                    push.arg("LPUSH").arg(result.key()).arg(&result.payload);
                    lists.push((result.key(), push, vec![index]));
                }
            }
        }
        let mut pipeline = Pipeline::with_capacity(2 * lists.len());
        let mut members = Vec::with_capacity(lists.len());
        for (key, push, of) in lists {
            pipeline.add_command(push).cmd("EXPIRE").arg(key).arg(self.ttl);
            members.push(of);
        }
        let mut answers: Vec<Result<()>> = results.iter().map(|_| Ok(())).collect();
        let sent = match self.client.shared().await {
            Ok(link) => link
                .pipeline(&pipeline)
                .await
                .map(|sent| (Arc::clone(&link), sent))
                // If it is sent twice, the second one is dropped by its caller.
                .map_err(|error| self.client.explain(&link, error, Sent::Harmless)),
            Err(error) => Err(error),
        };
        match sent {
            Ok((link, sent)) => {
                for (members, pushed) in members.iter().zip(sent.into_iter().step_by(2)) {
                    if let Err(error) = link::answer(pushed) {
                        let error = self.client.explain(&link, error, Sent::No);
                        for index in members {
                            answers[*index] = Err(error.clone());
                        }
                    }
                }
            }
            Err(error) => {
                for answer in &mut answers {
                    *answer = Err(error.clone());
                }
            }
        }
        answers
    }
}

impl BatchSender for ResultSender {
    type Item = Outgoing;
    type Answer = ();

    fn size(item: &Outgoing) -> usize {
        item.payload.len()
    }

    async fn one(&self, result: Outgoing) -> Result<()> {
        self.push(std::slice::from_ref(&result)).await.pop().unwrap_or(Ok(()))
    }

    async fn many(&self, results: Vec<Outgoing>) -> Vec<Result<()>> {
        self.push(&results).await
    }
}
