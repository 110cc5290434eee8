//! The command line that benchmarks share.

use std::time::Duration;

use clap::Args;
use tokio::runtime::{Builder, Runtime};

use crate::{Load, Result};

/// What to measure and how.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// The Redis server to measure with.
    #[arg(long, value_name = "URL", default_value = "redis://127.0.0.1:6379/0")]
    pub redis: String,
    /// The RabbitMQ to measure with; without it nothing on RabbitMQ is measured.
    #[arg(long, value_name = "URL")]
    pub amqp: Option<String>,
    /// The Kafka brokers to measure with; without them nothing on Kafka is measured.
    #[arg(long, value_name = "HOST:PORT,..")]
    pub kafka: Option<String>,
    /// Callers at the same time, a list.
    #[arg(long, value_name = "N,..", value_delimiter = ',', default_value = "1,32,256")]
    pub callers: Vec<usize>,
    /// Bytes of payload, a list.
    #[arg(long, value_name = "N,..", value_delimiter = ',', default_value = "100,10000")]
    pub bytes: Vec<usize>,
    /// How long to measure each time.
    #[arg(long, value_name = "SECONDS", default_value_t = 3.0, value_parser = seconds)]
    pub seconds: f64,
    /// How long to call before measuring.
    #[arg(long, value_name = "SECONDS", default_value_t = 0.5, value_parser = seconds)]
    pub warmup: f64,
    /// How often to go through all measurements.
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub rounds: usize,
    /// Runtime threads of each process, 0 for the current-thread runtime [default: tokio's own].
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
    /// Only measurements with this in their names; may be given repeatedly.
    #[arg(long, value_name = "PATTERN")]
    pub only: Vec<String>,
}

impl Options {
    /// How long to call.
    pub fn load(&self) -> Load {
        Load {
            warmup: Duration::from_secs_f64(self.warmup),
            duration: Duration::from_secs_f64(self.seconds),
        }
    }

    /// Whether a measurement of this name is wanted.
    pub fn wants(&self, name: &str) -> bool {
        let possible = (self.amqp.is_some() || !name.starts_with("amqp."))
            && (self.kafka.is_some() || !name.starts_with("kafka."));
        possible && (self.only.is_empty() || self.only.iter().any(|pattern| name.contains(pattern)))
    }
}

/// What the other process of a measurement is told.
#[derive(Args, Clone, Debug)]
pub struct Serve {
    /// The name of the measurement.
    pub name: String,
    /// The Redis server to use.
    #[arg(long)]
    pub redis: String,
    /// The RabbitMQ to use.
    #[arg(long)]
    pub amqp: Option<String>,
    /// The Kafka brokers to use.
    #[arg(long)]
    pub kafka: Option<String>,
    /// What the names of keys begin with.
    #[arg(long)]
    pub prefix: String,
    /// Bytes of payload.
    #[arg(long)]
    pub bytes: usize,
    /// Runtime threads, as in [`Options::threads`].
    #[arg(long)]
    pub threads: Option<usize>,
}

impl Serve {
    /// The arguments to start the other process with: `serve` and what is parsed into this.
    pub fn args(&self) -> Vec<String> {
        let mut args = vec![
            "serve".into(),
            self.name.clone(),
            format!("--redis={}", self.redis),
            format!("--prefix={}", self.prefix),
            format!("--bytes={}", self.bytes),
        ];
        args.extend(self.kafka.as_ref().map(|brokers| format!("--kafka={brokers}")));
        args.extend(self.amqp.as_ref().map(|url| format!("--amqp={url}")));
        args.extend(self.threads.map(|threads| format!("--threads={threads}")));
        args
    }
}

/// A runtime with so many threads: 0 for the current-thread runtime, `None` for tokio's default.
pub fn runtime(threads: Option<usize>) -> Result<Runtime> {
    let mut builder = match threads {
        Some(0) => Builder::new_current_thread(),
        _ => Builder::new_multi_thread(),
    };
    if let Some(threads @ 1..) = threads {
        builder.worker_threads(threads);
    }
    Ok(builder.enable_all().build()?)
}

fn seconds(text: &str) -> std::result::Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.0..=3600.0).contains(&seconds) => Ok(seconds),
        _ => Err("not a number of seconds from 0 to 3600".into()),
    }
}
