//! Whether a cluster, and lightbus' topics in it, are set up to keep what the bus promises to keep.

use std::{collections::BTreeMap, sync::Arc};

use lightbus_core::{
    Error, ErrorKind, Result,
    transport::{Finding, Severity},
};
use rdkafka::admin::{ConfigResource, ResourceSpecifier};

use crate::{client::Client, locate::quoted};

/// The most topics whose settings are read.
const MOST_TOPICS: usize = 200;
/// The most topics that a finding names.
const NAMED: usize = 5;
/// A shorter retention loses events of listeners that are down for a night.
const SHORT: u64 = 24 * 3600 * 1000;

/// A cluster, as its brokers describe it.
pub(crate) struct Cluster {
    pub(crate) brokers: Vec<i32>,
    pub(crate) topics: Vec<Topic>,
}

/// A topic of it.
pub(crate) struct Topic {
    pub(crate) name: String,
    /// The replicas of the partition with the fewest.
    pub(crate) replicas: usize,
    pub(crate) in_sync: usize,
    pub(crate) has_leaders: bool,
    /// Why it may not be described.
    pub(crate) refused: Option<String>,
}

type Endpoint = BTreeMap<String, String>;

/// Checks the cluster, and the topics with this prefix.
pub(crate) async fn diagnose(client: &Arc<Client>, prefix: &str) -> Result<Vec<Finding>> {
    let mut cluster = client.cluster().await?;
    cluster.topics.retain(|topic| is_ours(&topic.name, prefix));
    let broker = quoted(client.broker());
    let mut findings = vec![Finding::good(format!(
        "brokers: {}, topics of lightbus: {}",
        cluster.brokers.len(),
        cluster.topics.len()
    ))];
    findings.extend(check_cluster(&cluster));
    findings.extend(check_copies(&cluster, &broker));
    let (topics, more) = cluster.topics.split_at(cluster.topics.len().min(MOST_TOPICS));
    let names: Vec<_> = topics.iter().map(|topic| &*topic.name).collect();
    let mut asked: Vec<_> = names.iter().map(|name| ResourceSpecifier::Topic(name)).collect();
    asked.extend(cluster.brokers.first().map(|id| ResourceSpecifier::Broker(*id)));
    let mut settings = client.settings_of(&asked).await?;
    match settings.pop() {
        Some(Ok(of_broker)) => findings.extend(check_broker(&read(&of_broker), &broker)),
        Some(Err(error)) => findings.push(unseen("the settings of the brokers", "CLUSTER", &error)),
        None => {}
    }
    let mut seen = Vec::new();
    for (topic, settings) in topics.iter().zip(settings) {
        match settings {
            Ok(settings) => seen.push((topic, read(&settings))),
            Err(error) => {
                findings.push(unseen(&format!("the settings of {}", topic.name), "TOPIC", &error));
            }
        }
    }
    findings.extend(check_topics(&seen, &broker));
    if !more.is_empty() {
        findings.push(Finding::warning(
            format!("{} more topics were not checked", more.len()),
            "their settings are not known to be right",
            format!("kafka-configs.sh --bootstrap-server {broker} --describe --entity-type topics"),
        ));
    }
    Ok(findings)
}

fn is_ours(name: &str, prefix: &str) -> bool {
    name.strip_prefix(prefix).is_some_and(|name| {
        [".rpc_queue", ".events", ".dead_letters"].iter().any(|end| name.ends_with(end))
            || name.contains(".events.")
            || name == "lightbus.schemas"
    })
}

fn read(resource: &ConfigResource) -> Endpoint {
    let value =
        |entry: &rdkafka::admin::ConfigEntry| Some((entry.name.clone(), entry.value.clone()?));
    resource.entries.iter().filter_map(value).collect()
}

fn unseen(what: &str, kind: &str, error: &Error) -> Finding {
    Finding::warning(
        format!("{what} may not be read: {}", error.message()),
        "it is not known whether they keep what is sent",
        format!(
            "give the user of the bus the right DESCRIBE_CONFIGS on {kind}, or ask as another user"
        ),
    )
}

/// Names the first of these topics; `None` if there are none.
fn some<'a>(topics: impl Iterator<Item = &'a Topic>) -> Option<String> {
    let names: Vec<_> = topics.map(|topic| &*topic.name).collect();
    let rest = names.len().saturating_sub(NAMED);
    let first = names.iter().take(NAMED).copied().collect::<Vec<_>>().join(", ");
    match (names.is_empty(), rest) {
        (true, _) => None,
        (_, 0) => Some(first),
        _ => Some(format!("{first} and {rest} more")),
    }
}

fn check_cluster(cluster: &Cluster) -> Option<Finding> {
    (cluster.brokers.len() == 1).then(|| {
        Finding::warning(
            "there is one broker",
            "while it is down nothing can be fired or called, and its disk holds the only copy of all events",
            "run three brokers, with `replication: 3` and `min_insync_replicas: 2` in the options",
        )
    })
}

fn check_copies(cluster: &Cluster, broker: &str) -> Vec<Finding> {
    let topics = || cluster.topics.iter();
    let mut findings = Vec::new();
    if let Some(names) = some(topics().filter(|topic| topic.refused.is_some())) {
        findings.push(Finding::problem(
            format!("{names}: may not be described"),
            "the user of the bus cannot send there or read from it",
            "kafka-acls.sh: give the user READ, WRITE and DESCRIBE on them",
        ));
    }
    let seen = || topics().filter(|topic| topic.refused.is_none());
    if let Some(names) = some(seen().filter(|topic| !topic.has_leaders)) {
        findings.push(Finding::problem(
            format!("{names}: partitions without a leader"),
            "sending to these partitions fails, and nothing is read from them",
            format!("kafka-topics.sh --bootstrap-server {broker} --describe --unavailable-partitions; start the brokers that are down"),
        ));
    }
    if let Some(names) =
        some(seen().filter(|topic| topic.has_leaders && topic.in_sync < topic.replicas))
    {
        findings.push(Finding::warning(
            format!("{names}: replicas are not in sync"),
            "fewer brokers can be lost than was intended",
            format!("kafka-topics.sh --bootstrap-server {broker} --describe --under-replicated-partitions"),
        ));
    }
    if cluster.brokers.len() > 1
        && let Some(names) = some(seen().filter(|topic| topic.replicas == 1))
    {
        findings.push(Finding::problem(
            format!("{names}: one replica"),
            "losing one broker loses what is on it",
            "set `replication: 3` in the options before topics are created; kafka-reassign-partitions.sh for topics that exist",
        ));
    }
    findings
}

fn check_broker(settings: &Endpoint, broker: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    if settings.get("auto.create.topics.enable").map(String::as_str) == Some("true") {
        findings.push(Finding::warning(
            "auto.create.topics.enable is true",
            "a topic that another client asks for first is created without the configured partitions, replicas and retention",
            "set auto.create.topics.enable=false in server.properties",
        ));
    }
    let replicas =
        settings.get("offsets.topic.replication.factor").and_then(|text| text.parse().ok());
    if replicas == Some(1) {
        findings.push(Finding::warning(
            "offsets.topic.replication.factor is 1",
            "losing one broker loses the positions of listeners: they restart at their `start`",
            format!("set it to 3 before the first group is created; kafka-topics.sh --bootstrap-server {broker} --describe --topic __consumer_offsets"),
        ));
    }
    findings
}

fn check_topics(topics: &[(&Topic, Endpoint)], broker: &str) -> Vec<Finding> {
    let number = |settings: &Endpoint, name: &str| -> Option<u64> {
        settings.get(name).and_then(|text| text.parse().ok())
    };
    let those = |which: &dyn Fn(&Topic, &Endpoint) -> bool| {
        some(
            topics
                .iter()
                .filter(|(topic, settings)| which(topic, settings))
                .map(|(topic, _)| *topic),
        )
    };
    let alter = |setting: &str| {
        format!(
            "kafka-configs.sh --bootstrap-server {broker} --alter --entity-type topics --entity-name … --add-config {setting}"
        )
    };
    let is_of_events = |topic: &Topic| {
        !topic.name.ends_with(".rpc_queue") && !topic.name.ends_with("lightbus.schemas")
    };
    let mut findings = Vec::new();
    if let Some(names) = those(&|_, settings| {
        settings.get("unclean.leader.election.enable").map(String::as_str) == Some("true")
    }) {
        findings.push(Finding::problem(
            format!("{names}: unclean.leader.election.enable is true"),
            "a replica that lacks confirmed events can become the leader, and they are lost",
            alter("unclean.leader.election.enable=false"),
        ));
    }
    if let Some(names) = those(&|topic, settings| {
        topic.replicas > 1 && number(settings, "min.insync.replicas").is_some_and(|least| least < 2)
    }) {
        findings.push(Finding::problem(
            format!("{names}: min.insync.replicas is 1"),
            "an event can be confirmed that only one broker has, and is lost with it",
            alter("min.insync.replicas=2"),
        ));
    }
    if let Some(names) = those(&|topic, settings| {
        let replicas = u64::try_from(topic.replicas).unwrap_or(u64::MAX);
        replicas > 1
            && number(settings, "min.insync.replicas").is_some_and(|least| least >= replicas)
    }) {
        findings.push(Finding::warning(
            format!("{names}: min.insync.replicas is the number of replicas"),
            "while one broker is down, nothing can be sent",
            alter("min.insync.replicas=2"),
        ));
    }
    if let Some(names) = those(&|topic, settings| {
        is_of_events(topic)
            && settings.get("cleanup.policy").is_some_and(|policy| policy.contains("compact"))
    }) {
        findings.push(Finding::problem(
            format!("{names}: cleanup.policy includes compact"),
            "only the last event of each key is kept",
            alter("cleanup.policy=delete"),
        ));
    }
    if let Some(names) = those(&|topic, settings| {
        is_of_events(topic) && number(settings, "retention.ms").is_some_and(|kept| kept < SHORT)
    }) {
        findings.push(Finding::warning(
            format!("{names}: events are kept for less than a day"),
            "a listener that is down for longer loses events",
            alter("retention.ms=604800000"),
        ));
    }
    if topics.is_empty() {
        return findings;
    }
    if findings.iter().all(|finding| finding.severity == Severity::Good) {
        findings.push(Finding::good("the topics keep what is confirmed"));
    }
    findings
}

impl Client {
    /// Returns the settings, or the refusal, of each resource in order. Fails if no broker answers.
    async fn settings_of(
        &self,
        asked: &[ResourceSpecifier<'_>],
    ) -> Result<Vec<std::result::Result<ConfigResource, Error>>> {
        // One by one: only a broker itself knows its settings.
        let mut answers = Vec::with_capacity(asked.len());
        for resource in asked {
            let answer = self.describe(resource).await;
            if let Err(error) = &answer
                && error.kind() == ErrorKind::Unavailable
            {
                return answer.map(|_| Vec::new());
            }
            answers.push(answer);
        }
        Ok(answers)
    }
}
