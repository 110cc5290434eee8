//! Redis Cluster: which server has a key, and commands for several servers.

use futures_util::future::try_join_all;
use lightbus_core::{Error, Result};
use redis::{
    Cmd, ConnectionAddr, ConnectionInfo, Pipeline, ProtocolVersion, RedisResult, Value,
    aio::ConnectionLike,
    cluster::{ClusterClient, ClusterClientBuilder},
    cluster_async::ClusterConnection,
    cluster_routing::{RoutingInfo, SingleNodeRoutingInfo},
};

use crate::{
    config::{ClusterConfig, TlsConfig},
    endpoint::Endpoint,
    error::{Sent, from_redis},
    link::{Link, Wire},
    value,
};

const SLOTS: u16 = 16384;

/// The nodes of a cluster that the options name.
pub(crate) struct Nodes {
    seeds: Vec<ConnectionInfo>,
    info: ConnectionInfo,
    tls: Option<TlsConfig>,
    path: String,
}

impl Nodes {
    pub(crate) fn new(
        path: &str,
        config: &ClusterConfig,
        tls: Option<&TlsConfig>,
        info: ConnectionInfo,
    ) -> Result<Self> {
        let at = format!("{path}.cluster.nodes");
        if config.nodes.is_empty() {
            return Err(Error::config(at, "at least one node is needed"));
        }
        if info.redis_settings().db() != 0 {
            return Err(Error::config(path, "a cluster has only database 0"));
        }
        let seeds = config
            .nodes
            .iter()
            .map(|node| {
                let (host, port) = host_and_port(node)
                    .ok_or_else(|| Error::config(&at, format!("`{node}` is not `host:port`")))?;
                Ok(info.clone().set_addr(address(&info, host, port)))
            })
            .collect::<Result<_>>()?;
        Ok(Self { seeds, info, tls: tls.cloned(), path: path.to_owned() })
    }

    /// Connects to all nodes.
    pub(crate) async fn connect(&self, endpoint: &Endpoint) -> Result<Wire> {
        let explain = |error| from_redis(error, &endpoint.broker, Sent::No);
        #[cfg_attr(not(feature = "tls"), allow(unused_mut, reason = "changed for encryption"))]
        let mut builder = ClusterClientBuilder::new(self.seeds.clone())
            .use_protocol(ProtocolVersion::RESP3)
            .connection_timeout(endpoint.connect_timeout)
            .response_timeout(endpoint.response_timeout)
            .overall_response_timeout(Some(endpoint.response_timeout))
            .tcp_settings(self.info.tcp_settings().clone());
        #[cfg(feature = "tls")]
        if let ConnectionAddr::TcpTls { insecure, .. } = self.info.addr() {
            let mode = if *insecure { redis::TlsMode::Insecure } else { redis::TlsMode::Secure };
            builder = builder.tls(mode);
            if let Some(tls) = &self.tls {
                builder = builder.certs(crate::tls::certificates(&self.path, tls)?);
            }
        }
        let client: ClusterClient = builder.build().map_err(explain)?;
        client.get_async_connection().await.map(Wire::Cluster).map_err(explain)
    }

    /// Returns a client of the server that has this key now.
    pub(crate) async fn client_for(&self, shared: &Link, key: &str) -> Result<redis::Client> {
        let mut slots = redis::cmd("CLUSTER");
        slots.arg("SLOTS");
        let explain = |error| from_redis(error, "cluster", Sent::No);
        let answer = shared.command(&slots).await.map_err(explain)?;
        let slot = i64::from(slot(key.as_bytes()));
        let (host, port) = value::items(answer)
            .unwrap_or_default()
            .into_iter()
            .filter_map(value::items)
            .find(|range| {
                let bound = |index| range.get(index).and_then(value::int);
                bound(0).is_some_and(|from| from <= slot) && bound(1).is_some_and(|to| slot <= to)
            })
            .and_then(|range| value::items(range.into_iter().nth(2)?))
            .and_then(|node| {
                let port = u16::try_from(value::int(node.get(1)?)?).ok()?;
                Some((value::text(node.first()?).unwrap_or_default().to_owned(), port))
            })
            .ok_or_else(|| {
                Error::new(
                    lightbus_core::ErrorKind::Unavailable,
                    "no node of the cluster serves the key",
                )
                .with("key", key)
            })?;
        let address = match &*host {
            // The node does not know its own address: use the one by which it was reached.
            "" | "?" => self.seeds.first().map_or_else(
                || address(&self.info, "127.0.0.1", port),
                |seed| match seed.addr() {
                    ConnectionAddr::Tcp(host, _) | ConnectionAddr::TcpTls { host, .. } => {
                        address(&self.info, host, port)
                    }
                    other => other.clone(),
                },
            ),
            host => address(&self.info, host, port),
        };
        crate::endpoint::single(&self.path, self.tls.as_ref(), self.info.clone().set_addr(address))
    }
}

fn host_and_port(node: &str) -> Option<(&str, u16)> {
    let (host, port) = node.rsplit_once(':')?;
    Some((host.trim_start_matches('[').trim_end_matches(']'), port.parse().ok()?))
}

/// Returns an address with the encryption of another one.
fn address(like: &ConnectionInfo, host: &str, port: u16) -> ConnectionAddr {
    match like.addr() {
        ConnectionAddr::TcpTls { insecure, tls_params, .. } => ConnectionAddr::TcpTls {
            host: host.to_owned(),
            port,
            insecure: *insecure,
            tls_params: tls_params.clone(),
        },
        _ => ConnectionAddr::Tcp(host.to_owned(), port),
    }
}

/// Sends a command to the server of its key, or to any server if it has none.
pub(crate) async fn command(connection: &ClusterConnection, command: &Cmd) -> RedisResult<Value> {
    let mut connection = connection.clone();
    if matches!(name(command), b"PING" | b"HELLO" | b"COMMAND" | b"CLUSTER") {
        let any = RoutingInfo::SingleNode(SingleNodeRoutingInfo::RandomPrimary);
        return connection.route_command(command.clone(), any).await;
    }
    connection.req_packed_command(command).await
}

/// Sends commands, those of a slot together and in order.
pub(crate) async fn pipeline(
    connection: &ClusterConnection,
    pipeline: &Pipeline,
) -> RedisResult<Vec<Value>> {
    let mut groups: Vec<(u16, Vec<usize>, Pipeline)> = Vec::new();
    for (index, command) in pipeline.cmd_iter().enumerate() {
        let slot = slot(key(command).unwrap_or_default());
        match groups.iter_mut().find(|(known, ..)| *known == slot) {
            Some((_, members, commands)) => {
                members.push(index);
                commands.add_command(command.clone());
            }
            None => {
                let mut commands = Pipeline::new();
                commands.add_command(command.clone());
                groups.push((slot, vec![index], commands));
            }
        }
    }
    let sent = groups.iter().map(|(_, members, commands)| {
        let mut connection = connection.clone();
        async move { connection.req_packed_commands(commands, 0, members.len()).await }
    });
    let mut answers = vec![Value::Nil; pipeline.len()];
    for ((_, members, _), values) in groups.iter().zip(try_join_all(sent).await?) {
        for (index, value) in members.iter().zip(values) {
            answers[*index] = value;
        }
    }
    Ok(answers)
}

/// Sends commands one after the other, until one fails.
pub(crate) async fn in_turn(
    connection: &ClusterConnection,
    pipeline: &Pipeline,
) -> RedisResult<Vec<Value>> {
    let mut answers = Vec::with_capacity(pipeline.len());
    for one in pipeline.cmd_iter() {
        answers.push(crate::link::answer(command(connection, one).await?)?);
    }
    Ok(answers)
}

fn argument(command: &Cmd, index: usize) -> Option<&[u8]> {
    match command.args_iter().nth(index)? {
        redis::Arg::Simple(bytes) => Some(bytes),
        _ => None,
    }
}

fn name(command: &Cmd) -> &[u8] {
    argument(command, 0).unwrap_or_default()
}

/// Returns the key of a command, for the commands that pipelines have.
fn key(command: &Cmd) -> Option<&[u8]> {
    argument(command, if matches!(name(command), b"XGROUP" | b"XINFO") { 2 } else { 1 })
}

/// Returns the slot of a key, or of its part in braces.
fn slot(key: &[u8]) -> u16 {
    let tag = key.iter().position(|byte| *byte == b'{').and_then(|open| {
        let rest = &key[open + 1..];
        rest.iter()
            .position(|byte| *byte == b'}')
            .filter(|close| *close > 0)
            .map(|close| &rest[..close])
    });
    crc16(tag.unwrap_or(key)) % SLOTS
}

/// CRC-16/XMODEM.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(*byte) << 8), |crc, _| {
            if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_the_specification() {
        assert_eq!(crc16(b"123456789"), 0x31C3);
        assert_eq!(slot(b"foo"), 12182);
        assert_eq!(slot(b"{foo}.x"), slot(b"foo"));
        assert_eq!(slot(b"{}x"), crc16(b"{}x") % SLOTS);
    }
}
