//! Whether RabbitMQ is set up to keep what the bus promises, as far as AMQP shows it: the properties of
//! each node, what is refused, and alarms.

use std::time::Duration;

use lapin::{BasicProperties, uri::AMQPUri};
use lightbus_core::{Error, ErrorKind, Result, time::deadline_after, transport::Finding};
use tokio::time::timeout;

use crate::{
    client::Client,
    link::Link,
    locate::{allowed, vhost},
    publisher::{Message, Publisher},
    server_properties::ServerProperties,
    topology::{self, QueueSpec},
};

/// The oldest version that has what lightbus needs.
const OLDEST: (u16, u16) = (3, 10);
/// How long to wait for a confirmation before an alarm is reported.
const CONFIRM_LIMIT: Duration = Duration::from_secs(3);

/// Checks the broker itself.
pub(crate) async fn diagnose(client: &Client, publisher: &Publisher) -> Result<Vec<Finding>> {
    // A broker that is unreachable is an error, not a finding.
    client.sends().await?;
    let mut findings = nodes(client).await;
    findings.extend(takes_messages(client, publisher).await?);
    let vhost = vhost(client);
    findings.push(Finding::warning(
        "AMQP does not show policies, the members of quorum queues, imminent alarms, and `consumer_timeout`",
        "a policy that drops messages, or a queue that is about to lose its majority, is not found",
        format!(
            "check by hand: rabbitmqctl list_policies -p {vhost}; rabbitmq-queues check_if_node_is_quorum_critical; rabbitmq-diagnostics check_local_alarms; rabbitmqctl environment | grep consumer_timeout"
        ),
    ));
    Ok(findings)
}

/// Checks each node by its properties.
async fn nodes(client: &Client) -> Vec<Finding> {
    let endpoint = client.endpoint();
    let mut findings = Vec::new();
    let mut clusters: Vec<String> = Vec::new();
    for uri in &endpoint.uris {
        let properties =
            timeout(endpoint.connect_timeout, ServerProperties::of(endpoint, uri)).await;
        match properties.unwrap_or_else(|_| Err("it does not answer".to_owned())) {
            Ok(properties) => {
                findings.push(check_node(uri, &properties));
                if !clusters.contains(&properties.cluster) {
                    clusters.push(properties.cluster);
                }
            }
            Err(why) => findings.push(Finding::warning(
                format!("the node {} cannot be reached: {why}", address(uri)),
                "connecting takes longer, and fails if the other nodes are down too",
                "rabbitmqctl cluster_status on another node; is the address in `nodes` right?",
            )),
        }
    }
    if clusters.len() > 1 {
        findings.push(Finding::problem(
            format!("the nodes belong to different clusters: {}", clusters.join(", ")),
            "processes use different brokers and never receive each other's messages",
            "list nodes of only one cluster in `url` and `nodes`",
        ));
    }
    if endpoint.uris.len() == 1 {
        findings.push(Finding::warning(
            "only one node is configured",
            "if it is down, no process can connect, even if other nodes of its cluster are up",
            "list the others in `nodes`; with three nodes, quorum queues survive the loss of one",
        ));
    }
    findings
}

fn address(uri: &AMQPUri) -> String {
    format!("{}:{}", uri.authority.host, uri.authority.port)
}

fn check_node(uri: &AMQPUri, properties: &ServerProperties) -> Finding {
    let ServerProperties { product, version, cluster, lacks } = properties;
    let what = format!("{product} {version} at {}, of the cluster {cluster}", address(uri));
    let mut numbers = version.split('.').map(|number| number.parse::<u16>().unwrap_or(0));
    let number = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if product == "RabbitMQ" && number < OLDEST {
        return Finding::problem(
            what,
            "it is older than 3.10: quorum queues and streams lack features that lightbus needs",
            "update RabbitMQ",
        );
    }
    if !lacks.is_empty() {
        return Finding::problem(
            format!("{what}, lacks {}", lacks.join(", ")),
            "calls or confirmed events do not work",
            "use RabbitMQ 3.10 or newer",
        );
    }
    Finding::good(what)
}

/// Publishes two messages to no queue.
///
/// RabbitMQ reports an alarm only to clients that publish: one process of the broker reads the first
/// message, reports the alarm and reads no further, while another confirms that message. The
/// confirmation may thus arrive before the report; that of a second message cannot.
async fn takes_messages(client: &Client, publisher: &Publisher) -> Result<Vec<Finding>> {
    let out = publisher.channel().await?;
    let missing =
        format!("lightbus.doctor.{}.{:?}", std::process::id(), std::thread::current().id());
    let key = topology::short("the name of a queue", &missing)?;
    let deadline = deadline_after(client.response_timeout().min(CONFIRM_LIMIT));
    let publish = || {
        let message = Message {
            exchange: "".into(),
            key: key.clone(),
            mandatory: true,
            properties: BasicProperties::default(),
            body: bytes::Bytes::new(),
        };
        publisher.publish(&out, message, deadline)
    };
    let published = match publish().await {
        Ok(_) => publish().await,
        refused => refused,
    };
    let blocked = out.link.blocked_reason();
    Ok(vec![match (published, blocked) {
        (_, Some(reason)) => Finding::problem(
            format!("RabbitMQ accepts no messages because of an alarm: {reason}"),
            "calls and events wait, and fail when their time limit passes; queued messages are still delivered",
            "rabbitmq-diagnostics check_local_alarms, rabbitmqctl status: free memory or disk space on the node, or raise vm_memory_high_watermark or lower disk_free_limit",
        ),
        (Ok(_), None) => Finding::good("it accepts messages, and confirms them"),
        (Err(error), None) if error.is_temporary() => return Err(error),
        (Err(error), None) => refused("a message to a queue is refused", &error),
    }])
}

/// Compares a queue with its declaration.
pub(crate) async fn declared(client: &Client, spec: &QueueSpec) -> Result<Finding> {
    let link = client.consumes().await?;
    let name = spec.name();
    let found = match allowed(topology::waiting(&link, name).await)? {
        Ok(None) => return Ok(not_yet("queue", name)),
        Ok(Some(_)) => allowed(declare(&link, spec).await)?,
        Err(error) => Err(error),
    };
    Ok(match found {
        Ok(()) => Finding::good(format!("the queue `{name}` matches its declaration")),
        Err(error) => refused(&format!("the queue `{name}` cannot be used"), &error),
    })
}

/// Declares a queue. If it exists with the same arguments, this has no effect.
async fn declare(link: &Link, spec: &QueueSpec) -> Result<()> {
    let channel = link.channel().await?;
    spec.declare(link, &channel).await
}

/// Compares the exchange of events with its declaration.
pub(crate) async fn has_exchange(client: &Client, name: &str) -> Result<Finding> {
    let link = client.consumes().await?;
    let found = match allowed(topology::has_exchange(&link, name).await)? {
        Ok(false) => return Ok(not_yet("exchange", name)),
        Ok(true) => {
            let channel = link.channel().await?;
            allowed(topology::declare_exchange(&link, &channel, name).await)?
        }
        Err(error) => Err(error),
    };
    Ok(match found {
        Ok(()) => Finding::good(format!("the exchange `{name}` matches its declaration")),
        Err(error) => refused(&format!("the exchange `{name}` cannot be used"), &error),
    })
}

fn not_yet(kind: &str, name: &str) -> Finding {
    Finding::good(format!(
        "the {kind} `{name}` does not exist yet: it is declared when it is first needed"
    ))
}

fn refused(what: &str, error: &Error) -> Finding {
    let cure = match (error.kind(), error.advice()) {
        (_, Some(advice)) => advice.to_owned(),
        (ErrorKind::Config, None) => {
            "check rabbitmqctl list_permissions, and use set_permissions".to_owned()
        }
        (_, None) => "read the log of RabbitMQ".to_owned(),
    };
    Finding::problem(
        format!("{what}: {}", error.message()),
        "processes that need it fail when they start, or with each message",
        cure,
    )
}

#[cfg(test)]
mod tests {
    use lightbus_core::transport::Severity;

    use super::*;

    #[test]
    fn an_old_broker_and_one_that_lacks_something_are_problems() {
        let uri: AMQPUri = "amqp://here:1/%2f".parse().unwrap_or_default();
        let of = |version: &str, lacks| {
            let (product, version) = ("RabbitMQ".to_owned(), version.to_owned());
            check_node(&uri, &ServerProperties { product, version, cluster: "c".to_owned(), lacks })
                .severity
        };
        assert_eq!(of("3.10.0", vec![]), Severity::Good);
        assert_eq!(of("4.2.1", vec![]), Severity::Good);
        assert_eq!(of("3.9.27", vec![]), Severity::Problem);
        assert_eq!(of("3.12.1", vec!["direct_reply_to"]), Severity::Problem);
    }
}
