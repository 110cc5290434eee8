//! One connection to Redis.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use redis::{Cmd, Pipeline, RedisError, RedisResult, Value, aio::MultiplexedConnection};

/// The client library's connection.
#[derive(Clone)]
pub(crate) enum Wire {
    Single(MultiplexedConnection),
    #[cfg(feature = "cluster")]
    Cluster(redis::cluster_async::ClusterConnection),
}

impl Wire {
    /// Sends a command.
    pub(crate) async fn command(&self, command: &Cmd) -> RedisResult<Value> {
        let answer = match self {
            Self::Single(connection) => connection.clone().send_packed_command(command).await?,
            #[cfg(feature = "cluster")]
            Self::Cluster(connection) => crate::cluster::command(connection, command).await?,
        };
        match answer {
            Value::ServerError(error) => Err(error.into()),
            answer => Ok(answer),
        }
    }
}

/// What is known about the server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Server {
    /// Major and minor version.
    pub(crate) version: (u16, u16),
    /// The server's id of this connection.
    pub(crate) id: i64,
    /// Whether it has `BLMPOP`, which pops many at once: Redis 7, unless it is disabled.
    pub(crate) has_blmpop: bool,
}

/// A connection, and what is known about it.
pub(crate) struct Link {
    wire: Wire,
    alive: Arc<AtomicBool>,
    pub(crate) server: Server,
}

impl Link {
    pub(crate) fn new(wire: Wire, alive: Arc<AtomicBool>, server: Server) -> Self {
        Self { wire, alive, server }
    }

    /// Whether it is not known to be broken.
    pub(crate) fn is_alive(&self) -> bool {
        self.alive.load(Ordering::Acquire)
    }

    pub(crate) fn mark_broken(&self) {
        self.alive.store(false, Ordering::Release);
    }

    /// Sends a command.
    pub(crate) async fn command(&self, command: &Cmd) -> RedisResult<Value> {
        self.wire.command(command).await
    }

    /// Sends several commands at once. Each has its answer, or its [`Value::ServerError`] instead.
    pub(crate) async fn pipeline(&self, pipeline: &Pipeline) -> RedisResult<Vec<Value>> {
        match &self.wire {
            Wire::Single(connection) => {
                connection.clone().send_packed_commands(pipeline, 0, pipeline.len()).await
            }
            #[cfg(feature = "cluster")]
            Wire::Cluster(connection) => crate::cluster::pipeline(connection, pipeline).await,
        }
    }

    /// Sends several commands as a transaction. In a cluster, where their keys live on different
    /// servers, sends them one after the other.
    pub(crate) async fn transaction(&self, pipeline: &mut Pipeline) -> RedisResult<Vec<Value>> {
        match &self.wire {
            Wire::Single(connection) => {
                pipeline.atomic();
                pipeline.query_async(&mut connection.clone()).await
            }
            #[cfg(feature = "cluster")]
            Wire::Cluster(connection) => crate::cluster::in_turn(connection, pipeline).await,
        }
    }
}

/// Returns the answer, or the error that replaces it.
pub(crate) fn answer(value: Value) -> RedisResult<Value> {
    match value {
        Value::ServerError(error) => Err(RedisError::from(error)),
        value => Ok(value),
    }
}
