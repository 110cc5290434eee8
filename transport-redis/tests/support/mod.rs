//! A Redis of the test's own, and transports on it.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, reason = "each test uses a part")]

use std::{
    env,
    future::Future,
    net::TcpListener,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use lightbus_core::{
    Arguments, ConfigSection, EventMessage, FlowControl, Headers, RpcMessage, TransportFactory,
    transport::{
        DeadLetters, EventSelector, EventTransport, GroupSpec, ListenSpec, ResultTransport,
        RpcTransport, SchemaTransport, Start,
    },
};
use lightbus_transport_redis::RedisFactory;
use serde_json::{Value, json};
use tokio::time::Instant;

/// Long enough for anything; only a failing test waits for it.
pub const LIMIT: Duration = Duration::from_secs(20);

/// A `redis-server`, ended when it is dropped.
pub struct Server {
    child: Option<Child>,
    pub port: u16,
    dir: PathBuf,
    arguments: Vec<String>,
}

/// Starts a server; `None`, and loud, if there is none to start.
pub async fn server() -> Option<Server> {
    server_with(&[]).await
}

/// Starts a server with these options.
pub async fn server_with(arguments: &[&str]) -> Option<Server> {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let dir = env::temp_dir().join(format!("lightbus-redis-{}-{number}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let port = free_port();
    let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
    let mut server = Server { child: None, port, dir, arguments };
    if !server.start().await {
        eprintln!(
            "\n*** SKIPPED: redis-server cannot be started. Install it, or name it in LIGHTBUS_TEST_REDIS_SERVER. ***\n"
        );
        assert!(env::var("CI").is_err(), "in CI nothing may be skipped");
        return None;
    }
    Some(server)
}

/// Starts a sentinel that watches the server at this port under the name `main`.
pub async fn sentinel(primary: u16) -> Option<Server> {
    let file = env::temp_dir().join(format!(
        "lightbus-sentinel-{}-{}.conf",
        std::process::id(),
        free_port()
    ));
    let text = format!(
        "sentinel monitor main 127.0.0.1 {primary} 2\nsentinel down-after-milliseconds main 500\nsentinel failover-timeout main 3000\n"
    );
    std::fs::write(&file, text).unwrap();
    let file = file.display().to_string();
    server_with(&[&format!("!{file}"), "--sentinel"]).await
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Server {
    /// Starts it, on the same port each time.
    pub async fn start(&mut self) -> bool {
        let binary =
            env::var("LIGHTBUS_TEST_REDIS_SERVER").unwrap_or_else(|_| "redis-server".into());
        // A configuration file comes first.
        let (config, arguments): (Vec<_>, Vec<_>) =
            self.arguments.iter().partition(|argument| argument.starts_with('!'));
        let config = config.iter().map(|argument| &argument[1..]);
        let child = Command::new(binary)
            .args(config)
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--save", ""])
            .args(["--appendonly", "no", "--daemonize", "no"])
            .args(arguments)
            .current_dir(&self.dir)
            .stdout(Stdio::null())
            .spawn();
        let Ok(child) = child else { return false };
        self.child = Some(child);
        let deadline = Instant::now() + LIMIT;
        while tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.is_err() {
            assert!(Instant::now() < deadline, "redis-server does not listen");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // It listens before it has read what it had.
        let client = redis::Client::open(self.url()).unwrap();
        loop {
            assert!(Instant::now() < deadline, "redis-server does not serve");
            if let Ok(mut connection) = client.get_multiplexed_async_connection().await
                && redis::cmd("PING").query_async::<String>(&mut connection).await.is_ok()
            {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Kills it; what it had is gone.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    pub fn folder(&self) -> &PathBuf {
        &self.dir
    }

    /// A connection of the test's own.
    pub async fn redis(&self) -> Redis {
        connect(&self.url()).await
    }

    /// Transports as one process has them.
    pub fn process(&self) -> Process {
        self.process_with(json!({}))
    }

    /// The same, with options of the event transport.
    pub fn process_with(&self, event: Value) -> Process {
        Process::new(&json!({"url": self.url()}), event)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
        let _ = std::fs::remove_dir_all(&self.dir);
        for file in self.arguments.iter().filter_map(|argument| argument.strip_prefix('!')) {
            let _ = std::fs::remove_file(file);
        }
    }
}

/// A connection of the test's own.
pub async fn connect(url: &str) -> Redis {
    let client = redis::Client::open(url).unwrap();
    let config = redis::AsyncConnectionConfig::new().set_response_timeout(Some(LIMIT));
    Redis(client.get_multiplexed_async_connection_with_config(&config).await.unwrap())
}

/// Commands as text.
pub struct Redis(pub redis::aio::MultiplexedConnection);

impl Redis {
    pub async fn run<T: redis::FromRedisValue>(&mut self, command: &[&str]) -> T {
        self.try_run(command).await.unwrap()
    }

    pub async fn try_run<T: redis::FromRedisValue>(
        &mut self,
        command: &[&str],
    ) -> redis::RedisResult<T> {
        let mut made = redis::cmd(command[0]);
        for argument in &command[1..] {
            made.arg(*argument);
        }
        made.query_async(&mut self.0).await
    }
}

/// The four transports of a process.
pub struct Process {
    pub rpc: Arc<dyn RpcTransport>,
    pub result: Arc<dyn ResultTransport>,
    pub event: Arc<dyn EventTransport>,
    pub schema: Arc<dyn SchemaTransport>,
}

impl Process {
    pub fn new(common: &Value, event: Value) -> Self {
        let factory = RedisFactory::default();
        let section = |more: Value| {
            let mut options = common.clone();
            let (Some(options_map), Value::Object(more)) = (options.as_object_mut(), more) else {
                panic!("options are objects")
            };
            options_map.extend(more);
            ConfigSection::new("test", options)
        };
        Self {
            rpc: factory.rpc(&section(json!({}))).unwrap(),
            result: factory.result(&section(json!({}))).unwrap(),
            event: factory.event(&section(event)).unwrap(),
            schema: factory.schema(&section(json!({}))).unwrap(),
        }
    }

    pub fn dead_letters(&self) -> &dyn DeadLetters {
        self.event.require_dead_letters().unwrap()
    }
}

/// Waits until it is so.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut check: impl FnMut() -> F) {
    let deadline = Instant::now() + LIMIT;
    while !check().await {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// What comes within the limit.
pub async fn soon<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, work).await.expect("waited in vain")
}

/// A call without arguments.
pub fn call(api: &str, id: &str, return_path: &str, timeout: Duration) -> RpcMessage {
    RpcMessage {
        id: id.into(),
        api: api.into(),
        procedure: "add".into(),
        fields: fields(&[("a", "2"), ("b", "\"é☃\"")]),
        headers: Headers::new(),
        return_path: lightbus_core::ReturnPath::new(return_path),
        deadline: Instant::now() + timeout,
    }
}

pub fn fields(pairs: &[(&str, &str)]) -> Arguments {
    let mut fields = Arguments::new();
    for (name, value) in pairs {
        fields.push(*name, value.as_bytes().to_vec());
    }
    fields
}

/// An event whose id tells it from others.
pub fn event(id: &str, name: &str) -> EventMessage {
    EventMessage::new(id, "shop.till", name, 2, fields(&[("sku", "\"pen\""), ("price", "1.10")]))
}

pub fn listen(process: &str, start: Start) -> ListenSpec {
    ListenSpec {
        group: greeter(),
        process: process.into(),
        events: vec![EventSelector::one("shop.till", "opened")],
        start,
        flow: FlowControl::new(100, 400),
    }
}

/// The group of [`listen`].
pub fn greeter() -> GroupSpec {
    GroupSpec::new("shop", "greeter")
}
