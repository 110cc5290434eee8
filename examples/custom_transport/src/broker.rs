//! The transport: what lightbus asks of a broker, as requests to a loft.

use std::{
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use async_trait::async_trait;
use bytes::Bytes;
use lightbus_core::{
    Capabilities, Error, ErrorKind, Name, Result,
    broker::{Broker, Channel, ChannelKind, Consumer, ConsumerSpec, Message, Received, Store},
    transport::{Lag, Start},
};

use crate::{
    PigeonConfig,
    client::Client,
    protocol::{Ask, Delivered, Fate, From, Letter},
};

/// A loft, as lightbus sees it.
#[derive(Debug)]
pub struct Pigeon {
    client: Arc<Client>,
}

#[async_trait]
impl Broker for Pigeon {
    const NAME: &'static str = "pigeon";

    type Config = PigeonConfig;
    type Consumer = Member;

    fn new(config: PigeonConfig) -> Result<Self> {
        Ok(Self { client: Arc::new(Client::new(config)) })
    }

    fn address(&self) -> String {
        self.client.config.loft.clone()
    }

    fn capabilities(&self) -> Capabilities {
        let mut capabilities = Capabilities::default();
        capabilities.durable = true;
        capabilities.ordered = true;
        capabilities.replay = true;
        capabilities.history = true;
        capabilities.lag = true;
        capabilities.shared = true;
        capabilities
    }

    fn lease(&self) -> Option<Duration> {
        Some(self.client.config.acknowledgement_timeout.0)
    }

    async fn connect(&self) -> Result<()> {
        // Answered by a loft that serves, whatever the key.
        self.get(&Store::Schemas, "").await.map(drop)
    }

    async fn close(&self) {
        self.client.close().await;
    }

    async fn publish(&self, messages: Vec<Message>) -> Result<Vec<Name>> {
        let letters = messages.into_iter().map(|message| {
            Ok(Letter {
                channel: message.channel.to_string(),
                text: text(message.payload)?,
                ttl: message.ttl.map(millis),
                keep: message.channel.kind == ChannelKind::Events,
            })
        });
        let letters = letters.collect::<Result<_>>()?;
        let numbers: Vec<u64> = self.client.ask(Ask::Publish(letters)).await?;
        Ok(numbers.into_iter().map(|number| number.to_string().into()).collect())
    }

    async fn subscribe(&self, spec: ConsumerSpec) -> Result<Member> {
        let (channel, group) = (spec.channel.to_string(), spec.group.to_string());
        let start = match spec.start {
            Start::New => From::New,
            Start::Earliest => From::Earliest,
            Start::Since(time) => {
                From::Since(millis(time.duration_since(UNIX_EPOCH).unwrap_or_default()))
            }
        };
        let subscribe = Ask::Subscribe { channel: channel.clone(), group: group.clone(), start };
        let () = self.client.ask(subscribe).await?;
        let own = spec.channel.kind == ChannelKind::Results;
        Ok(Member { client: Arc::clone(&self.client), channel, group, own })
    }

    async fn put(
        &self,
        store: &Store,
        key: &str,
        value: Bytes,
        ttl: Option<Duration>,
    ) -> Result<()> {
        let (store, key, value) = (store.to_string(), key.to_owned(), text(value)?);
        self.client.ask(Ask::Put { store, key, value, ttl: ttl.map(millis) }).await
    }

    async fn get(&self, store: &Store, key: &str) -> Result<Option<Bytes>> {
        let get = Ask::Get { store: store.to_string(), key: key.to_owned() };
        Ok(self.client.ask::<Option<String>>(get).await?.map(Bytes::from))
    }

    async fn delete(&self, store: &Store, key: &str) -> Result<bool> {
        self.client.ask(Ask::Delete { store: store.to_string(), key: key.to_owned() }).await
    }

    async fn keys(&self, store: &Store) -> Result<Vec<Name>> {
        let keys: Vec<String> = self.client.ask(Ask::Keys { store: store.to_string() }).await?;
        Ok(keys.into_iter().map(Name::from).collect())
    }

    async fn renew(&self, store: &Store, key: &str, ttl: Duration) -> Result<bool> {
        let (store, key) = (store.to_string(), key.to_owned());
        self.client.ask(Ask::Extend { store, key, ttl: millis(ttl) }).await
    }

    async fn history(
        &self,
        channel: &Channel,
        before: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Received<()>>> {
        let before = before.and_then(|number| number.parse().ok());
        let history = Ask::History { channel: channel.to_string(), before, limit };
        let found: Vec<Delivered> = self.client.ask(history).await?;
        Ok(found.into_iter().map(|delivered| received(delivered, |_| ())).collect())
    }

    async fn lag(&self, channel: &Channel, group: &str) -> Result<Lag> {
        let lag = Ask::Lag { channel: channel.to_string(), group: group.to_owned() };
        let (waiting, pending) = self.client.ask(lag).await?;
        Ok(Lag { waiting, pending })
    }

    async fn forget(&self, channel: &Channel, group: &str) -> Result<()> {
        let (channel, group) = (channel.to_string(), group.to_owned());
        self.client.ask(Ask::Forget { channel, group }).await
    }

    async fn has_group(&self, channel: &Channel, group: &str) -> Result<bool> {
        let (channel, group) = (channel.to_string(), group.to_owned());
        self.client.ask(Ask::HasGroup { channel, group }).await
    }
}

/// A member of a group. The loft knows groups and receipts, not members: so there is nothing that a
/// connection that broke could lose.
#[derive(Debug)]
pub struct Member {
    client: Arc<Client>,
    channel: String,
    group: String,
    /// Whether this process alone reads the channel.
    own: bool,
}

impl Member {
    async fn settle(&self, receipts: Vec<u64>, fate: Fate) -> Result<()> {
        let (channel, group) = (self.channel.clone(), self.group.clone());
        self.client.ask(Ask::Settle { channel, group, receipts, fate }).await
    }

    fn lease(&self) -> u64 {
        millis(self.client.config.acknowledgement_timeout.0)
    }
}

#[async_trait]
impl Consumer for Member {
    /// A receipt.
    type Token = u64;

    async fn fetch(&self, max: usize, wait: Duration) -> Result<Vec<Received<u64>>> {
        let fetch = Ask::Fetch {
            channel: self.channel.clone(),
            group: self.group.clone(),
            max,
            wait: millis(wait),
            lease: self.lease(),
        };
        let delivered: Vec<Delivered> = self.client.ask(fetch).await?;
        Ok(delivered.into_iter().map(|delivered| received(delivered, |receipt| receipt)).collect())
    }

    async fn ack(&self, receipts: Vec<u64>) -> Result<()> {
        self.settle(receipts, Fate::Done).await
    }

    async fn release(&self, receipts: Vec<u64>) -> Result<()> {
        self.settle(receipts, Fate::GiveBack).await
    }

    async fn renew(&self, receipts: Vec<u64>) -> Result<()> {
        self.settle(receipts, Fate::Keep { lease: self.lease() }).await
    }

    async fn close(&self) {
        if self.own {
            let (channel, group) = (self.channel.clone(), self.group.clone());
            // What stays behind of it has a time to live.
            let _ = self.client.ask::<()>(Ask::Forget { channel, group }).await;
        }
    }
}

fn received<T>(delivered: Delivered, token: impl FnOnce(u64) -> T) -> Received<T> {
    let number = delivered.number.to_string();
    let mut received = Received::new(token(delivered.receipt), number, delivered.text);
    received.time = Some(UNIX_EPOCH + Duration::from_millis(delivered.time));
    received.attempt = delivered.attempt;
    received.age = Some(Duration::from_millis(delivered.age));
    received
}

fn text(bytes: Bytes) -> Result<String> {
    String::from_utf8(bytes.into())
        .map_err(|error| Error::new(ErrorKind::Malformed, "a loft takes text alone").because(error))
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
