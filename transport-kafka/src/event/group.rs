//! The consumer group of a listener: its name and topics, its members, and its deletion.

use std::time::Duration;

use lightbus_core::{
    Error, ErrorKind, Name, Result,
    time::after,
    transport::{EventSelector, GroupSpec, ListenSpec},
};
use rdkafka::{admin::AdminOptions, error::RDKafkaErrorCode as Code};
use tokio::time::Instant;

use super::KafkaEventTransport;
use crate::{
    TopicUse,
    client::Client,
    error::{Sent, from_code, from_kafka},
    group::MemberSpec,
    topic::legal,
};

/// The wait before a group is deleted again that has members, or no coordinator.
const AGAIN: Duration = Duration::from_millis(50);

impl KafkaEventTransport {
    /// Returns the topic of an event, or of all events of an API.
    pub(super) fn topic(&self, api: &str, event: Option<&str>) -> Result<Name> {
        let prefix = &self.config.prefix;
        match (self.config.topic_use, event) {
            (TopicUse::PerApi, _) => Ok(format!("{prefix}{}.events", legal(api)).into()),
            (TopicUse::PerEvent, Some(event)) => {
                Ok(format!("{prefix}{}.events.{}", legal(api), legal(event)).into())
            }
            (TopicUse::PerEvent, None) => Err(Error::new(
                ErrorKind::Config,
                format!(
                    "with `topic_use: per_event`, all events of `{api}` cannot be selected at once"
                ),
            )
            .hint("Name the events one by one, or let all processes use `topic_use: per_api`")),
        }
    }

    /// Returns the topics of these events.
    pub(super) fn topics(&self, events: &[EventSelector]) -> Result<Vec<Name>> {
        let mut topics: Vec<Name> = Vec::new();
        for selector in events {
            let topic = self.topic(&selector.api, selector.event.as_deref())?;
            if !topics.contains(&topic) {
                topics.push(topic);
            }
        }
        if topics.is_empty() {
            return Err(Error::new(ErrorKind::Config, "there is no event to listen to"));
        }
        Ok(topics)
    }

    /// Returns the name of a group without the prefix.
    pub(super) fn group(&self, group: &GroupSpec) -> String {
        let service = self.config.service_name.as_deref().unwrap_or(&group.service);
        GroupSpec::new(service, Name::clone(&group.listener)).to_string()
    }

    /// Returns the name of a group on Kafka.
    pub(super) fn full_group(&self, group: &GroupSpec) -> String {
        format!("{}{}", self.config.prefix, self.group(group))
    }

    pub(super) fn dead_letter_topic(&self, group: &GroupSpec) -> Name {
        let group = legal(&self.group(group));
        format!("{}{group}.dead_letters", self.config.prefix).into()
    }

    pub(super) fn reader_group(&self) -> String {
        format!("{}lightbus.readers", self.config.prefix)
    }

    /// Returns how this process joins its group.
    pub(super) fn member(
        &self,
        client: &Client,
        spec: &ListenSpec,
        topics: Vec<Name>,
    ) -> MemberSpec {
        let group = self.full_group(&spec.group);
        let (endpoint, config) = (client.endpoint(), &self.config);
        MemberSpec {
            config: endpoint.member(&group, config.session_timeout.0, config.fetch_wait.0),
            broker: endpoint.broker.clone(),
            group,
            topics,
            start: spec.start,
            timeout: endpoint.timeout,
            revoke_timeout: config.revoke_timeout.0,
            release_after: None,
        }
    }
}

/// Deletes a consumer group with its position. A group with members is deleted when they have left.
pub(super) async fn delete(client: &Client, group: &str) -> Result<()> {
    let admin = client.admin()?;
    let options = AdminOptions::new().request_timeout(Some(client.endpoint().timeout));
    let until = after(Instant::now(), client.endpoint().timeout);
    loop {
        let mut answers = admin
            .delete_groups(&[group], &options)
            .await
            .map_err(|error| from_kafka(error, client.broker(), Sent::Harmless))?;
        match answers.pop() {
            None | Some(Ok(_)) | Some(Err((_, Code::GroupIdNotFound))) => return Ok(()),
            Some(Err((
                _,
                Code::NonEmptyGroup
                | Code::NotCoordinator
                | Code::CoordinatorNotAvailable
                | Code::CoordinatorLoadInProgress,
            ))) if Instant::now() < until => tokio::time::sleep(AGAIN).await,
            Some(Err((_, code))) => {
                return Err(from_code(code, client.broker(), Sent::Harmless)
                    .with("group", group)
                    .hint("Are all processes of this listener stopped?"));
            }
        }
    }
}
