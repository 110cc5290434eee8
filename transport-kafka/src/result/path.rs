//! Return paths: a topic and one of its partitions.

use lightbus_core::{Error, ErrorKind, Name, Result, ReturnPath};

/// The scheme of a return path; topic and partition follow.
const SCHEME: &str = "kafka+reply://";
/// The name of the topic of results, without the configured prefix.
const TOPIC: &str = "lightbus.results";

/// Returns the topic of results.
pub(super) fn topic(prefix: &str) -> Name {
    format!("{prefix}{TOPIC}").into()
}

/// Where a process receives its results.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ReplyPath {
    pub(crate) topic: Name,
    pub(crate) partition: i32,
}

impl ReplyPath {
    pub(crate) fn to_return_path(&self) -> ReturnPath {
        ReturnPath::new(format!("{SCHEME}{}/{}", self.topic, self.partition))
    }

    /// Parses a return path. It must lead to `topic`: callers do not choose where workers write.
    pub(crate) fn parse(path: &ReturnPath, topic: &Name) -> Result<Self> {
        Self::read(path).filter(|read| read.topic == *topic).ok_or_else(|| {
            Error::new(ErrorKind::Malformed, "the return path does not belong to this transport")
                .with("return path", path.as_str())
                .hint(
                    "Do callers and workers use the same result transport, with the same `prefix`?",
                )
        })
    }

    /// Parses a return path to any topic of results.
    pub(crate) fn read(path: &ReturnPath) -> Option<Self> {
        let (topic, partition) = path.as_str().strip_prefix(SCHEME)?.rsplit_once('/')?;
        let partition = partition.parse().ok().filter(|partition| *partition >= 0)?;
        topic.ends_with(TOPIC).then(|| Self { topic: topic.into(), partition })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_path_reads_back_and_leads_nowhere_else() {
        let topic = topic("x.");
        let path = ReplyPath { topic: Name::clone(&topic), partition: 7 };
        assert_eq!(ReplyPath::parse(&path.to_return_path(), &topic).unwrap(), path);
        for bad in [
            "redis+key://a",
            "kafka+reply://x.lightbus.results",
            "kafka+reply://x.lightbus.results/",
            "kafka+reply://x.lightbus.results/-1",
            "kafka+reply://x.lightbus.results/9999999999",
            "kafka+reply://orders.events/1",
            "kafka+reply://y.lightbus.results/1",
        ] {
            let error = ReplyPath::parse(&ReturnPath::new(bad), &topic).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Malformed, "{bad}");
        }
    }
}
