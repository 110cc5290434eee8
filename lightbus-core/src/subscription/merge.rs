//! Several sources read as one.
//!
//! A broker that has a queue for each API cannot always wait for all of them in one request. Each
//! source then fetches in a task of its own, so that what it receives is taken from the broker's
//! connection also while the driver has no credit. At most one fetch of a source runs at a time, for
//! its share of the room, and continues between two calls of [`Source::fetch`]: dropping it could lose messages. So up to
//! one share of each source may wait here, unseen, and is given back when the subscription closes.

use std::{collections::VecDeque, sync::Arc};

use async_trait::async_trait;
use futures_util::future::join_all;
use tokio::{
    sync::{Mutex, Notify},
    task::{AbortHandle, JoinError, JoinSet},
};

use super::{Outcome, Session, Source};
use crate::{Error, Result};

/// Several sources of one kind as one [`Source`], all read at the same time.
///
/// An error of one source does not hold up messages of the others. There is no order between
/// messages of different sources.
pub struct Merge<S: Source> {
    sources: Vec<Arc<S>>,
    state: Mutex<State<S>>,
    interrupted: Notify,
}

struct State<S: Source> {
    fetching: JoinSet<(usize, Fetched<S>)>,
    /// The fetch of each source; `None` while it has none.
    running: Vec<Option<AbortHandle>>,
    /// Fetched, and not yet handed out.
    ready: VecDeque<Ready<S>>,
}

type Ready<S> = (Arc<<S as Source>::Message>, (usize, <S as Source>::Token));
type Fetched<S> = Result<Vec<(Arc<<S as Source>::Message>, <S as Source>::Token)>>;

impl<S: Source> Merge<S> {
    /// Reads from all of these.
    #[must_use]
    pub fn new(sources: Vec<S>) -> Self {
        let state = State {
            fetching: JoinSet::new(),
            running: sources.iter().map(|_| None).collect(),
            ready: VecDeque::new(),
        };
        Self {
            sources: sources.into_iter().map(Arc::new).collect(),
            state: Mutex::new(state),
            interrupted: Notify::new(),
        }
    }

    /// Starts a fetch of each source that has none.
    fn start(&self, state: &mut State<S>, max: usize) {
        let share = (max / self.sources.len().max(1)).max(1);
        for (index, source) in self.sources.iter().enumerate() {
            if state.running[index].is_none() {
                let source = Arc::clone(source);
                let fetch = async move { (index, source.fetch(share).await) };
                state.running[index] = Some(state.fetching.spawn(fetch));
            }
        }
    }

    /// Ends the fetches under way, and keeps what they took.
    async fn finish(&self, state: &mut State<S>) {
        let running = |(index, _): &(usize, &Arc<S>)| state.running[*index].is_some();
        let asked = self.sources.iter().enumerate().filter(running).map(async |(index, source)| {
            // One that does not return by itself may be dropped.
            (!source.interrupt().await).then_some(index)
        });
        for index in join_all(asked).await.into_iter().flatten() {
            if let Some(fetch) = &state.running[index] {
                fetch.abort();
            }
        }
        while let Some(fetched) = state.fetching.join_next().await {
            if let Err(error) = state.keep(fetched) {
                tracing::debug!(%error, "a last fetch failed");
            }
        }
        state.running.iter_mut().for_each(|running| *running = None);
    }
}

impl<S: Source> State<S> {
    fn keep(&mut self, fetched: Result<(usize, Fetched<S>), JoinError>) -> Result<()> {
        let (index, fetched) = match fetched {
            Ok(fetched) => fetched,
            Err(error) if error.is_cancelled() => return Ok(()),
            // For the driver to report.
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        };
        self.running[index] = None;
        self.ready.extend(fetched?.into_iter().map(|(message, token)| (message, (index, token))));
        Ok(())
    }

    fn take(&mut self, max: usize) -> Vec<Ready<S>> {
        let count = self.ready.len().min(max);
        self.ready.drain(..count).collect()
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl<S: Source> Source for Merge<S>
where
    S::Token: Clone,
{
    type Message = S::Message;
    type Token = (usize, S::Token);

    const REDELIVERS: bool = S::REDELIVERS;

    async fn fetch(&self, max: usize) -> Result<Vec<(Arc<Self::Message>, Self::Token)>> {
        let mut state = self.state.lock().await;
        let mut failed: Option<Error> = None;
        if state.ready.is_empty() {
            self.start(&mut state, max);
            tokio::select! {
                biased;
                () = self.interrupted.notified() => self.finish(&mut state).await,
                Some(fetched) = state.fetching.join_next() => failed = state.keep(fetched).err(),
            }
        }
        while let Some(fetched) = state.fetching.try_join_next() {
            failed = state.keep(fetched).err().or(failed);
        }
        let messages = state.take(max);
        match failed {
            // It fails again if it still has reason to, when there is nothing else to hand out.
            Some(error) if !messages.is_empty() && error.is_temporary() => {
                tracing::debug!(%error, "one of several sources failed");
                Ok(messages)
            }
            Some(error) => Err(error),
            None => Ok(messages),
        }
    }

    async fn settle(&self, settled: &[(Self::Token, Outcome)]) -> Result<()> {
        for (index, source) in self.sources.iter().enumerate() {
            let own: Vec<(S::Token, Outcome)> = settled
                .iter()
                .filter(|((of, _), _)| *of == index)
                .map(|((_, token), outcome)| (token.clone(), outcome.clone()))
                .collect();
            if !own.is_empty() {
                source.settle(&own).await?;
            }
        }
        Ok(())
    }

    fn is_suspect(&self, message: &Self::Message, (index, token): &Self::Token) -> bool {
        self.sources[*index].is_suspect(message, token)
    }

    async fn begin(&self, (index, token): &Self::Token) -> Result<bool> {
        self.sources[*index].begin(token).await
    }

    fn session(&self, (index, token): &Self::Token) -> Option<Session> {
        self.sources[*index].session(token)
    }

    fn size(&self, message: &Self::Message) -> usize {
        self.sources.first().map_or(0, |source| source.size(message))
    }

    fn resize(&self, window: usize) {
        for source in &self.sources {
            source.resize((window / self.sources.len()).max(1));
        }
    }

    fn held_back(&self, messages: usize) {
        for source in &self.sources {
            source.held_back(messages);
        }
    }

    async fn interrupt(&self) -> bool {
        self.interrupted.notify_one();
        true
    }

    async fn close(&self) -> Result<()> {
        let mut state = self.state.lock().await;
        self.finish(&mut state).await;
        let unseen: Vec<_> =
            state.ready.drain(..).map(|(_, token)| (token, Outcome::Retry)).collect();
        let mut last = self.settle(&unseen).await;
        for source in &self.sources {
            last = source.close().await.and(last);
        }
        last
    }
}

impl<S: Source> std::fmt::Debug for Merge<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Merge").field("sources", &self.sources.len()).finish_non_exhaustive()
    }
}
