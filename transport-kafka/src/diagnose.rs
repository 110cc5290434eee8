//! Holding a cluster and lightbus' topics in it against what the bus promises.

use std::{collections::BTreeMap, sync::Arc};

use lightbus_core::{
    Error, ErrorKind, Result,
    transport::{Finding, Severity},
};
use rdkafka::admin::{ConfigResource, ResourceSpecifier};

use crate::{client::Client, locate::quoted};

/// The most topics whose settings are asked for.
const MOST_TOPICS: usize = 200;
/// So many are named where more are meant.
const NAMED: usize = 5;
/// Events that are kept for less are lost to listeners that are away for a night.
const SHORT: u64 = 24 * 3600 * 1000;

/// A cluster, as its brokers describe it.
pub(crate) struct Cluster {
    pub(crate) brokers: Vec<i32>,
    pub(crate) topics: Vec<Topic>,
}

/// A topic of it.
pub(crate) struct Topic {
    pub(crate) name: String,
    /// The fewest of any of its partitions.
    pub(crate) copies: usize,
    pub(crate) in_sync: usize,
    pub(crate) has_leaders: bool,
    /// Why it may not be looked at.
    pub(crate) refused: Option<String>,
}

type Endpoint = BTreeMap<String, String>;

/// Looks at the cluster, and at the topics whose names begin so.
pub(crate) async fn diagnose(client: &Arc<Client>, prefix: &str) -> Result<Vec<Finding>> {
    let mut cluster = client.cluster().await?;
    cluster.topics.retain(|topic| is_ours(&topic.name, prefix));
    let broker = quoted(client.broker());
    let mut findings = vec![Finding::good(format!(
        "brokers: {}, topics of lightbus: {}",
        cluster.brokers.len(),
        cluster.topics.len()
    ))];
    findings.extend(judge_cluster(&cluster));
    findings.extend(judge_copies(&cluster, &broker));
    let (topics, more) = cluster.topics.split_at(cluster.topics.len().min(MOST_TOPICS));
    let names: Vec<_> = topics.iter().map(|topic| &*topic.name).collect();
    let mut asked: Vec<_> = names.iter().map(|name| ResourceSpecifier::Topic(name)).collect();
    asked.extend(cluster.brokers.first().map(|id| ResourceSpecifier::Broker(*id)));
    let mut settings = client.settings_of(&asked).await?;
    match settings.pop() {
        Some(Ok(of_broker)) => findings.extend(judge_broker(&read(&of_broker), &broker)),
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
    findings.extend(judge_topics(&seen, &broker));
    if !more.is_empty() {
        findings.push(Finding::warning(
            format!("{} more topics were not looked at", more.len()),
            "their settings stay unseen",
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
        format!("{what} may not be looked at: {}", error.message()),
        "whether they keep what is sent cannot be said",
        format!(
            "give the user of the bus the right DESCRIBE_CONFIGS on {kind}, or ask as another user"
        ),
    )
}

/// Some of them by name.
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

fn judge_cluster(cluster: &Cluster) -> Option<Finding> {
    (cluster.brokers.len() == 1).then(|| {
        Finding::warning(
            "there is one broker",
            "when it is away nobody can fire or call, and with its disk all events are lost",
            "three brokers, with `replication: 3` and `min_insync_replicas: 2` in the options",
        )
    })
}

fn judge_copies(cluster: &Cluster, broker: &str) -> Vec<Finding> {
    let topics = || cluster.topics.iter();
    let mut findings = Vec::new();
    if let Some(names) = some(topics().filter(|topic| topic.refused.is_some())) {
        findings.push(Finding::problem(
            format!("{names}: may not be looked at"),
            "the user of the bus cannot send there or read from it",
            "kafka-acls.sh: give the user READ, WRITE and DESCRIBE on them",
        ));
    }
    let seen = || topics().filter(|topic| topic.refused.is_none());
    if let Some(names) = some(seen().filter(|topic| !topic.has_leaders)) {
        findings.push(Finding::problem(
            format!("{names}: partitions without a leader"),
            "what goes into these partitions fails, and nothing is read from them",
            format!("kafka-topics.sh --bootstrap-server {broker} --describe --unavailable-partitions; start the brokers that are away"),
        ));
    }
    if let Some(names) =
        some(seen().filter(|topic| topic.has_leaders && topic.in_sync < topic.copies))
    {
        findings.push(Finding::warning(
            format!("{names}: copies are not in sync"),
            "fewer brokers can be lost than was meant",
            format!("kafka-topics.sh --bootstrap-server {broker} --describe --under-replicated-partitions"),
        ));
    }
    if cluster.brokers.len() > 1
        && let Some(names) = some(seen().filter(|topic| topic.copies == 1))
    {
        findings.push(Finding::problem(
            format!("{names}: one copy"),
            "the loss of one broker loses what is on it",
            "`replication: 3` in the options, before topics are made; kafka-reassign-partitions.sh for those that are there",
        ));
    }
    findings
}

fn judge_broker(settings: &Endpoint, broker: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    if settings.get("auto.create.topics.enable").map(String::as_str) == Some("true") {
        findings.push(Finding::warning(
            "auto.create.topics.enable is true",
            "a topic that somebody else asks for first is made without what the configuration says of partitions, copies and retention",
            "auto.create.topics.enable=false in server.properties",
        ));
    }
    let copies =
        settings.get("offsets.topic.replication.factor").and_then(|text| text.parse().ok());
    if copies == Some(1) {
        findings.push(Finding::warning(
            "offsets.topic.replication.factor is 1",
            "the loss of one broker loses how far listeners were: they begin anew",
            format!("3, before the first group is made; kafka-topics.sh --bootstrap-server {broker} --describe --topic __consumer_offsets"),
        ));
    }
    findings
}

fn judge_topics(topics: &[(&Topic, Endpoint)], broker: &str) -> Vec<Finding> {
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
            "a copy that lacks confirmed events can become the leader, and they are gone",
            alter("unclean.leader.election.enable=false"),
        ));
    }
    if let Some(names) = those(&|topic, settings| {
        topic.copies > 1 && number(settings, "min.insync.replicas").is_some_and(|least| least < 2)
    }) {
        findings.push(Finding::problem(
            format!("{names}: min.insync.replicas is 1"),
            "an event can be confirmed that is on one broker only, and is lost with it",
            alter("min.insync.replicas=2"),
        ));
    }
    if let Some(names) = those(&|topic, settings| {
        let copies = u64::try_from(topic.copies).unwrap_or(u64::MAX);
        copies > 1 && number(settings, "min.insync.replicas").is_some_and(|least| least >= copies)
    }) {
        findings.push(Finding::warning(
            format!("{names}: min.insync.replicas is the number of copies"),
            "when one broker is away, nothing can be sent",
            alter("min.insync.replicas=2"),
        ));
    }
    if let Some(names) = those(&|topic, settings| {
        is_of_events(topic)
            && settings.get("cleanup.policy").is_some_and(|policy| policy.contains("compact"))
    }) {
        findings.push(Finding::problem(
            format!("{names}: cleanup.policy has compact"),
            "of events with the same key only the last is kept",
            alter("cleanup.policy=delete"),
        ));
    }
    if let Some(names) = those(&|topic, settings| {
        is_of_events(topic) && number(settings, "retention.ms").is_some_and(|kept| kept < SHORT)
    }) {
        findings.push(Finding::warning(
            format!("{names}: kept for less than a day"),
            "a listener that is away for longer loses events",
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
    /// Refused or not, in the order asked for; an error where nobody answers.
    async fn settings_of(
        &self,
        asked: &[ResourceSpecifier<'_>],
    ) -> Result<Vec<std::result::Result<ConfigResource, Error>>> {
        // Of each broker only itself knows, so they are asked one by one.
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
