//! Several sources merged into one: in a cluster, keys that are read together live on different servers.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use futures_util::{
    StreamExt,
    future::{BoxFuture, join_all},
    stream::FuturesUnordered,
};
use lightbus_core::{Outcome, Result, Session, Source};

/// Reads from several sources at the same time.
pub(crate) struct MergedSource<S: Source> {
    sources: Vec<Arc<S>>,
    state: Mutex<Option<State<S>>>,
}

struct State<S: Source> {
    /// Fetches in progress. They continue between two calls, and are never dropped: what they took would
    /// be lost.
    fetching: FuturesUnordered<BoxFuture<'static, (usize, Fetched<S>)>>,
    idle: Vec<usize>,
    /// Fetched and not returned yet: at most what each fetch was allowed.
    ready: VecDeque<Ready<S>>,
}

type Ready<S> = (Arc<<S as Source>::Message>, (usize, <S as Source>::Token));
type Fetched<S> = Result<Vec<(Arc<<S as Source>::Message>, <S as Source>::Token)>>;

impl<S: Source> MergedSource<S> {
    pub(crate) fn new(sources: Vec<S>) -> Self {
        Self {
            state: Mutex::new(Some(State {
                fetching: FuturesUnordered::new(),
                idle: (0..sources.len()).collect(),
                ready: VecDeque::new(),
            })),
            sources: sources.into_iter().map(Arc::new).collect(),
        }
    }

    fn take(&self) -> State<S> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner).take();
        state.unwrap_or_else(|| State {
            fetching: FuturesUnordered::new(),
            idle: (0..self.sources.len()).collect(),
            ready: VecDeque::new(),
        })
    }
}

fn store<S: Source>(state: &mut State<S>, (index, fetched): (usize, Fetched<S>)) -> Result<()> {
    state.idle.push(index);
    let fetched = fetched?;
    state.ready.extend(fetched.into_iter().map(|(message, token)| (message, (index, token))));
    Ok(())
}

#[async_trait]
impl<S: Source> Source for MergedSource<S>
where
    S::Token: Clone,
{
    type Message = S::Message;
    type Token = (usize, S::Token);

    const REDELIVERS: bool = S::REDELIVERS;

    async fn fetch(&self, max: usize) -> Result<Vec<(Arc<Self::Message>, Self::Token)>> {
        let mut state = self.take();
        let mut fetched = Ok(());
        if state.ready.is_empty() {
            let share = (max / self.sources.len()).max(1);
            for index in std::mem::take(&mut state.idle) {
                let source = Arc::clone(&self.sources[index]);
                state.fetching.push(Box::pin(async move { (index, source.fetch(share).await) }));
            }
            if let Some(one) = state.fetching.next().await {
                fetched = store(&mut state, one);
            }
        }
        let count = state.ready.len().min(max);
        let messages = state.ready.drain(..count).collect();
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = Some(state);
        fetched.map(|()| messages)
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

    fn is_suspect(&self, message: &S::Message, (of, token): &Self::Token) -> bool {
        self.sources[*of].is_suspect(message, token)
    }

    async fn begin(&self, (of, token): &Self::Token) -> Result<bool> {
        self.sources[*of].begin(token).await
    }

    fn session(&self, (of, token): &Self::Token) -> Option<Session> {
        self.sources[*of].session(token)
    }

    fn size(&self, message: &S::Message) -> usize {
        self.sources.first().map_or(0, |source| source.size(message))
    }

    fn resize(&self, window: usize) {
        self.sources.iter().for_each(|source| source.resize(window));
    }

    fn held_back(&self, messages: usize) {
        self.sources.iter().for_each(|source| source.held_back(messages));
    }

    async fn interrupt(&self) -> bool {
        join_all(self.sources.iter().map(|source| source.interrupt())).await;
        true
    }

    async fn close(&self) -> Result<()> {
        let mut state = self.take();
        while let Some(one) = state.fetching.next().await {
            if let Err(error) = store(&mut state, one) {
                tracing::debug!(%error, "the last fetch failed while closing");
            }
        }
        let unseen: Vec<_> =
            state.ready.drain(..).map(|(_, token)| (token, Outcome::Retry)).collect();
        let mut last = self.settle(&unseen).await;
        for source in &self.sources {
            last = source.close().await.and(last);
        }
        last
    }
}
