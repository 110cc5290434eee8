//! Buses on every transport.

use lightbus::{Bus, BusBuilder, config::Config};
use lightbus_test_brokers::{RedisServer, shared_kafka, shared_rabbitmq, soon, unique};

/// Everything over this Redis; `event` has further options of the event transport.
pub fn redis_yaml(url: &str, event: &str) -> String {
    format!(
        "bus:\n  schema:\n    transport: {{ redis: {{ url: \"{url}\" }} }}\napis:\n  default:\n    \
         rpc_transport: {{ redis: {{ url: \"{url}\" }} }}\n    result_transport: {{ redis: {{ url: \"{url}\" }} }}\n    \
         event_transport: {{ redis: {{ url: \"{url}\"{event} }} }}\n"
    )
}

/// A bus on this Redis.
pub async fn redis_bus(url: &str, service: &str) -> Bus {
    let config = Config::from_yaml(&redis_yaml(url, "")).unwrap();
    soon("connecting", Bus::builder().config(config).service_name(service).connect()).await.unwrap()
}

/// Everything over this RabbitMQ, in queues whose names begin with `prefix`.
fn amqp_yaml(url: &str, prefix: &str) -> String {
    let options = format!("{{ amqp: {{ url: \"{url}\", prefix: \"{prefix}\" }} }}");
    format!(
        "bus:\n  schema:\n    transport: {options}\napis:\n  default:\n    rpc_transport: {options}\n    \
         result_transport: {options}\n    event_transport: {options}\n"
    )
}

/// Everything over this Kafka, in topics and groups whose names begin with `prefix`.
pub fn kafka_yaml(brokers: &str, prefix: &str) -> String {
    // As a test wants it: few partitions, and a process that is gone is soon noticed.
    let common = format!("brokers: \"{brokers}\", prefix: \"{prefix}\", partitions: 4");
    let group = format!("{common}, session_timeout: 2");
    format!(
        "bus:\n  schema:\n    transport: {{ kafka: {{ {common} }} }}\napis:\n  default:\n    \
         rpc_transport: {{ kafka: {{ {group} }} }}\n    result_transport: {{ kafka: {{ {common} }} }}\n    \
         event_transport: {{ kafka: {{ {group} }} }}\n"
    )
}

/// A broker on which buses meet, for tests that run on every transport.
pub enum Place {
    Memory(lightbus::Registry),
    Redis(RedisServer),
    /// One that others use too, and a prefix that no other test has.
    Amqp {
        url: String,
        prefix: String,
    },
    /// Brokers that others use too, and a prefix that no other test has.
    Kafka {
        brokers: String,
        prefix: String,
    },
}

impl Place {
    pub fn memory() -> Option<Self> {
        Some(Self::Memory(lightbus::registry()))
    }

    pub fn redis() -> Option<Self> {
        RedisServer::start_durable().map(Self::Redis)
    }

    pub fn amqp() -> Option<Self> {
        shared_rabbitmq().map(|url| Self::Amqp { url, prefix: unique("") })
    }

    pub fn kafka() -> Option<Self> {
        shared_kafka().map(|brokers| Self::Kafka { brokers, prefix: unique("") })
    }

    /// Whether each delivery of an event counts. On Kafka only those to processes that died do.
    pub fn counts_deliveries(&self) -> bool {
        !matches!(self, Self::Kafka { .. })
    }

    /// Whether events without a key keep their order. Kafka spreads them over partitions.
    pub fn orders_without_keys(&self) -> bool {
        self.counts_deliveries()
    }

    /// Another process of the same bus, as far as the bus can tell.
    pub async fn bus(&self, service: &str) -> Bus {
        self.bus_with(service, "").await
    }

    /// The same; `settings` are further lines of `apis.default`.
    pub async fn bus_with(&self, service: &str, settings: &str) -> Bus {
        self.connect(service, settings, |_| ()).await
    }

    /// The same, with a configuration that was changed.
    pub async fn bus_changed(&self, service: &str, change: impl FnOnce(&mut Config)) -> Bus {
        self.connect(service, "", change).await
    }

    async fn connect(
        &self,
        service: &str,
        settings: &str,
        change: impl FnOnce(&mut Config),
    ) -> Bus {
        soon("connecting", self.builder(service, settings, change).connect()).await.unwrap()
    }

    /// What makes another process of the same bus.
    pub fn builder(
        &self,
        service: &str,
        settings: &str,
        change: impl FnOnce(&mut Config),
    ) -> BusBuilder {
        let registry = match self {
            Self::Memory(registry) => registry.clone(),
            _ => lightbus::registry(),
        };
        let mut config = Config::from_yaml(&self.yaml(settings)).unwrap();
        change(&mut config);
        Bus::builder().config(config).registry(registry).service_name(service)
    }

    /// Everything over it, as an operator writes it.
    pub fn yaml(&self, settings: &str) -> String {
        let yaml = match self {
            Self::Memory(_) => "bus: { schema: { transport: { memory: {} } } }\napis:\n  default:\n    rpc_transport: { memory: {} }\n    \
                            result_transport: { memory: {} }\n    event_transport: { memory: {} }\n"
                .to_owned(),
            Self::Redis(server) => redis_yaml(&server.url(), ""),
                    Self::Amqp { url, prefix } => amqp_yaml(url, prefix),
                    Self::Kafka { brokers, prefix } => kafka_yaml(brokers, prefix),
        };
        if settings.is_empty() { yaml } else { format!("{yaml}    {settings}\n") }
    }
}
