//! Whether a Redis server is set up to keep what the bus promises to keep.

use lightbus_core::{Error, Result, transport::Finding};
use redis::Value;

use crate::{
    client::Client,
    error::{Sent, from_redis},
    locate::{ask, command},
    value,
};

/// Checks a server's settings.
pub(crate) async fn diagnose(client: &Client) -> Result<Vec<Finding>> {
    if client.is_cluster() {
        return Ok(vec![Finding::warning(
            "this is a Redis Cluster: its nodes are not checked one by one",
            "settings that lose messages are not found",
            "run `lightbus doctor` with the address of each node",
        )]);
    }
    let info = match ask(client, &command(&["INFO"])).await? {
        Ok(info) => value::bytes(info).map(|text| String::from_utf8_lossy(&text).into_owned()),
        Err(why) => {
            return Ok(vec![Finding::warning(
                format!("INFO is not allowed: {why}"),
                "it is not known whether this Redis keeps what is sent",
                "grant the user of the bus `+info`, or run this as another user",
            )]);
        }
    };
    let Some(info) = info else {
        let error = redis::RedisError::from((
            redis::ErrorKind::Parse,
            "INFO was not answered with a string",
        ));
        let error: Error = from_redis(error, client.broker(), Sent::Harmless);
        return Err(error);
    };
    let mut findings = check(&Facts(&info));
    if Facts(&info).get("aof_enabled") == "1" {
        let save = ask(client, &command(&["CONFIG", "GET", "appendfsync"])).await?;
        findings.extend(check_save(save));
    }
    Ok(findings)
}

/// Checks how often the append-only file is written.
fn check_save(save: Result<Value, String>) -> Option<Finding> {
    let save = match save {
        Ok(save) => value::pairs(save)?,
        Err(why) => {
            return Some(Finding::warning(
                format!("CONFIG GET is not allowed: {why}"),
                "it is not known whether a crash of the machine loses the last seconds (appendfsync)",
                "grant the user of the bus `+config|get`, or run this as another user",
            ));
        }
    };
    (value::get(&save, "appendfsync").and_then(value::text) == Some("no")).then(|| {
        Finding::warning(
            "appendfsync is `no`",
            "a crash of the machine loses what the system had not written: up to 30 s of events",
            "CONFIG SET appendfsync everysec",
        )
    })
}

/// The lines of `INFO`.
struct Facts<'a>(&'a str);

impl<'a> Facts<'a> {
    fn get(&self, key: &str) -> &'a str {
        let of = |line: &'a str| line.strip_prefix(key)?.strip_prefix(':');
        self.0.lines().find_map(of).unwrap_or_default().trim()
    }

    fn number(&self, key: &str) -> u64 {
        self.get(key).parse().unwrap_or(0)
    }
}

fn check(facts: &Facts<'_>) -> Vec<Finding> {
    let mut findings = vec![Finding::good(format!("Redis {}", facts.get("redis_version")))];
    let (most, policy) = (facts.number("maxmemory"), facts.get("maxmemory_policy"));
    findings.push(if !matches!(policy, "noeviction" | "") {
        Finding::problem(
            format!("maxmemory-policy is `{policy}`, maxmemory {most} bytes"),
            "when memory is full, Redis silently evicts streams, queues and schemas",
            "CONFIG SET maxmemory-policy noeviction: then firing fails instead of losing events",
        )
    } else if most == 0 {
        Finding::warning(
            "maxmemory is not set",
            "Redis grows until the system kills it",
            "CONFIG SET maxmemory to about three quarters of the machine's memory, with noeviction",
        )
    } else {
        Finding::good(format!("maxmemory {most} bytes, noeviction"))
    });
    if most > 0 && facts.number("used_memory") > most / 10 * 9 {
        findings.push(Finding::problem(
            format!("{} of {most} bytes are in use", facts.number("used_memory")),
            "calls and events will soon be refused",
            "raise maxmemory, or lower `max_stream_length`",
        ));
    }
    findings.push(if facts.get("aof_enabled") == "1" {
        Finding::good("events are written to the append-only file")
    } else {
        Finding::problem(
            "there is no append-only file (appendonly no)",
            "a restart of Redis loses the events since the last snapshot, or all of them",
            "CONFIG SET appendonly yes, also in redis.conf",
        )
    });
    for (key, what) in
        [("aof_last_write_status", "append-only file"), ("rdb_last_bgsave_status", "snapshot")]
    {
        if facts.get(key) == "err" {
            findings.push(Finding::problem(
                format!("the last {what} could not be written"),
                "Redis may refuse to write, and a restart loses data",
                "read the log of Redis: most often the disk is full",
            ));
        }
    }
    findings.push(if facts.get("role") == "slave" {
        Finding::problem(
            "this server is a replica",
            "nothing can be sent to it",
            "set the primary's address in `url`, or use `sentinel`",
        )
    } else if facts.number("connected_slaves") == 0 {
        Finding::warning(
            "there is no replica",
            "losing the machine loses everything on it",
            "add a replica, with Sentinel or Cluster for failover, if that matters",
        )
    } else {
        Finding::good(format!(
            "{} replicas; after a failover, they may lack the last confirmed messages",
            facts.number("connected_slaves")
        ))
    });
    findings
}

#[cfg(test)]
mod tests {
    use lightbus_core::transport::Severity;

    use super::*;

    #[test]
    fn what_loses_messages_is_a_problem() {
        let bad = "redis_version:7.0.1\r\nmaxmemory:100\r\nused_memory:95\r\nmaxmemory_policy:allkeys-lru\r\naof_enabled:0\r\nrole:slave\r\n";
        let findings = check(&Facts(bad));
        let problems = findings.iter().filter(|finding| finding.severity == Severity::Problem);
        assert_eq!(problems.count(), 4, "{findings:?}");
        assert!(findings.iter().all(|finding| {
            finding.severity == Severity::Good
                || !(finding.cure.is_empty() || finding.consequence.is_empty())
        }));
    }

    #[test]
    fn a_server_that_keeps_what_is_sent_is_good() {
        let good = "redis_version:7.0.1\r\nmaxmemory:100\r\nused_memory:5\r\nmaxmemory_policy:noeviction\r\naof_enabled:1\r\nrole:master\r\nconnected_slaves:1\r\n";
        let findings = check(&Facts(good));
        assert!(findings.iter().all(|finding| finding.severity == Severity::Good), "{findings:?}");
    }
}
