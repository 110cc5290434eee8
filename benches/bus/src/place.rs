//! Which broker the bus is measured on.

use clap::Args;
use lightbus::config::{Config, Validate};
use lightbus::{Bus, BusBuilder};
use lightbus_bench_raw::{Broker, Peer, Processes, Result};
use redis::{Value, cmd};
use serde_json::json;

/// Where messages go: a configuration, or a Redis, or nothing.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct Place {
    /// The configuration that says which transports to measure, files with commas between. Without
    /// it `LIGHTBUS_CONFIG` counts, and without that only what stays in memory is measured.
    #[arg(long, value_name = "FILE,..")]
    pub(crate) config: Option<String>,
    /// A Redis to use with default options, instead of a configuration.
    #[arg(skip)]
    pub(crate) redis: Option<String>,
    /// A RabbitMQ to use with default options, instead of a configuration.
    #[arg(skip)]
    pub(crate) amqp: Option<String>,
    /// Kafka brokers to use with default options, instead of a configuration.
    #[arg(skip)]
    pub(crate) kafka: Option<String>,
}

impl Place {
    /// What the environment says, unless something was asked for.
    pub(crate) fn or_from_env(mut self) -> Self {
        if self.config.is_none() && !self.is_shared() {
            self.config = std::env::var("LIGHTBUS_CONFIG").ok().filter(|paths| !paths.is_empty());
        }
        self
    }

    fn files(&self) -> impl Iterator<Item = &str> {
        self.config.iter().flat_map(|paths| paths.split(',')).map(str::trim)
    }

    /// The settings for all APIs.
    fn settings(&self) -> Result<Config> {
        let redis = self.redis.as_ref().map(|url| json!({"redis": {"url": url}}));
        let amqp = self.amqp.as_ref().map(|url| json!({"amqp": {"url": url}}));
        let kafka = self.kafka.as_ref().map(|brokers| json!({"kafka": {"brokers": brokers}}));
        if let Some(broker) = redis.or(amqp).or(kafka) {
            let all = json!({
                "bus": {"schema": {"transport": broker}},
                "apis": {"default": {
                    "rpc_transport": broker, "result_transport": broker, "event_transport": broker,
                }},
            });
            return Ok(Config::from_yaml(&all.to_string())?);
        }
        match self.config {
            Some(_) => Ok(Config::from_files(self.files())?),
            None => Ok(Config::default()),
        }
    }

    /// A bus for the measured API, with messages checked against schemas or not.
    pub(crate) fn bus(&self, service: &str, validate: bool) -> Result<BusBuilder> {
        let mut config = self.settings()?;
        let mut api = config.apis.get("default").cloned().unwrap_or_default();
        api.validate = Validate { outgoing: validate, incoming: validate };
        config.apis.insert("bench".into(), api);
        Ok(Bus::builder().config(config).service_name(service).process_name("measured"))
    }

    /// Whether there is a broker at all.
    pub(crate) fn is_shared(&self) -> bool {
        [&self.config, &self.redis, &self.amqp, &self.kafka].into_iter().any(Option::is_some)
    }

    /// The Redis that carries calls, if one does.
    pub(crate) fn redis(&self) -> Result<Option<String>> {
        if self.redis.is_some() {
            return Ok(self.redis.clone());
        }
        let mut url = None;
        for path in self.files() {
            let text = std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
            let file: serde_json::Value = serde_saphyr::from_str(&text)?;
            let transport = &file["apis"]["default"]["rpc_transport"];
            if let Some(options) = transport.get("redis") {
                let usual = "redis://127.0.0.1:6379/0";
                url = Some(options["url"].as_str().unwrap_or(usual).to_owned());
            } else if !transport.is_null() {
                url = None;
            }
        }
        Ok(url)
    }

    /// The arguments that say the same to the other process.
    pub(crate) fn args(&self) -> Vec<String> {
        let config = self.config.iter().map(|paths| format!("--config={paths}"));
        let redis = self.redis.iter().map(|url| format!("--redis={url}"));
        let amqp = self.amqp.iter().map(|url| format!("--amqp={url}"));
        let kafka = self.kafka.iter().map(|brokers| format!("--kafka={brokers}"));
        config.chain(redis).chain(amqp).chain(kafka).collect()
    }
}

/// The broker beneath the bus, as far as the measurements know it: to take its CPU time, to count
/// connections, to tidy up.
#[derive(Debug)]
pub(crate) struct Beneath(Option<Broker>);

impl Beneath {
    pub(crate) async fn open(place: &Place) -> Result<Self> {
        Ok(Self(match place.redis()? {
            Some(url) => Some(Broker::open(&url).await?),
            None => None,
        }))
    }

    /// The processes that take part.
    pub(crate) fn processes(&self, peer: Option<&Peer>) -> Processes {
        Processes {
            server: peer.map(Peer::pid),
            broker: self.0.as_ref().and_then(Broker::pid),
            ..Processes::of_client()
        }
    }

    /// How many connections the broker has, this question's own left out.
    pub(crate) async fn connections(&self) -> Result<Option<usize>> {
        let Some(broker) = &self.0 else {
            return Ok(None);
        };
        let list: String =
            cmd("CLIENT").arg("LIST").query_async(&mut broker.connect().await?).await?;
        Ok(Some(list.lines().filter(|line| !line.contains("cmd=client")).count()))
    }

    /// Deletes what a measurement left: up to a gigabyte of events.
    pub(crate) async fn tidy(&self) -> Result<()> {
        let Some(broker) = &self.0 else {
            return Ok(());
        };
        let mut connection = broker.connect().await?;
        let mut cursor = String::from("0");
        loop {
            let (next, keys): (String, Vec<String>) = cmd("SCAN")
                .arg(&cursor)
                .arg("MATCH")
                .arg("bench[.:]*")
                .arg("COUNT")
                .arg(1000)
                .query_async(&mut connection)
                .await?;
            if !keys.is_empty() {
                let _: Value = cmd("UNLINK").arg(keys).query_async(&mut connection).await?;
            }
            if next == "0" {
                return Ok(());
            }
            cursor = next;
        }
    }
}
