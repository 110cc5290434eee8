//! RabbitMQs of the test's own, and transports on them.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, reason = "each test uses a part")]

use std::{
    env,
    future::Future,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
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
use lightbus_transport_amqp::AmqpFactory;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::Instant,
};

/// Long enough for anything; only a failing test waits for it.
pub const LIMIT: Duration = Duration::from_secs(20);
/// A broker starts within this, also while others do.
const START_LIMIT: Duration = Duration::from_secs(90);

/// A RabbitMQ, ended when it is dropped.
pub struct Server {
    child: Option<Child>,
    epmd: Arc<Epmd>,
    node: String,
    pub port: u16,
    distribution: u16,
    dir: PathBuf,
    program: PathBuf,
}

/// The name server of some nodes, ended with the last.
struct Epmd {
    child: Child,
    port: u16,
    /// Holds the cookie by which nodes and `rabbitmqctl` know each other.
    home: PathBuf,
}

impl Epmd {
    async fn start() -> Option<Self> {
        let port = free_port();
        let home = folder("epmd");
        let cookie = home.join(".erlang.cookie");
        std::fs::write(&cookie, "lightbus-tests").unwrap();
        let only_me = std::os::unix::fs::PermissionsExt::from_mode(0o400);
        std::fs::set_permissions(&cookie, only_me).unwrap();
        let child = Command::new("epmd")
            .args(["-port", &port.to_string(), "-address", "127.0.0.1"])
            .current_dir(&home)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let epmd = Self { child, port, home };
        let deadline = Instant::now() + LIMIT;
        while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            assert!(Instant::now() < deadline, "epmd does not listen");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Some(epmd)
    }
}

impl Drop for Epmd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.home);
    }
}

/// A folder that nobody else has.
fn folder(name: &str) -> PathBuf {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let dir = env::temp_dir().join(format!("lightbus-amqp-{}-{number}-{name}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

/// Starts a broker; `None`, and loud, if there is none to start.
pub async fn server() -> Option<Server> {
    server_with("").await
}

/// Starts a broker with further lines of configuration.
pub async fn server_with(config: &str) -> Option<Server> {
    let mut server = prepare(None, config).await?;
    server.start().await;
    Some(server)
}

/// Starts a cluster of three, each with the queues of the others.
pub async fn cluster() -> Option<Vec<Server>> {
    let mut first = prepare(None, "").await?;
    let epmd = Arc::clone(&first.epmd);
    first.launch();
    let mut nodes = vec![first];
    for _ in 0..2 {
        let mut node = prepare(Some(Arc::clone(&epmd)), "").await?;
        node.launch();
        nodes.push(node);
    }
    for node in &nodes {
        node.wait().await;
    }
    for node in &nodes[1..] {
        node.ctl(&["stop_app"]).await;
        node.ctl(&["reset"]).await;
        node.ctl(&["join_cluster", &nodes[0].node]).await;
        node.ctl(&["start_app"]).await;
        node.wait().await;
    }
    Some(nodes)
}

async fn prepare(epmd: Option<Arc<Epmd>>, config: &str) -> Option<Server> {
    let program = program();
    let epmd = match (epmd, &program) {
        (Some(epmd), _) => Some(epmd),
        (None, Some(_)) => Epmd::start().await.map(Arc::new),
        (None, None) => None,
    };
    let (Some(program), Some(epmd)) = (program, epmd) else {
        eprintln!(
            "\n*** SKIPPED: RabbitMQ cannot be started. Install rabbitmq-server, or name it in LIGHTBUS_TEST_RABBITMQ_SERVER. ***\n"
        );
        assert!(env::var("CI").as_deref() != Ok("true"), "in CI nothing may be skipped");
        return None;
    };
    let port = free_port();
    let dir = folder("node");
    std::fs::write(
        dir.join("rabbitmq.conf"),
        format!(
            "listeners.tcp.1 = 127.0.0.1:{port}\nlog.console = false\ndisk_free_limit.absolute = 50MB\n{config}"
        ),
    )
    .unwrap();
    std::fs::write(dir.join("plugins"), "[].\n").unwrap();
    let node = format!("test{port}@localhost");
    Some(Server { child: None, epmd, node, port, distribution: free_port(), dir, program })
}

/// The script that becomes the broker. Debian's on the PATH changes the user first, and leaves the
/// broker behind when it is killed.
fn program() -> Option<PathBuf> {
    if let Ok(named) = env::var("LIGHTBUS_TEST_RABBITMQ_SERVER") {
        return Some(named.into());
    }
    let debian = Path::new("/usr/lib/rabbitmq/bin/rabbitmq-server");
    if debian.exists() {
        return Some(debian.to_owned());
    }
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|dir| dir.join("rabbitmq-server")).find(|file| file.exists())
}

/// A port that nobody has now, and that the system does not give to those who connect.
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let begin = 10_000 + (std::process::id() * 37) % 20_000;
    loop {
        let port = begin + NEXT.fetch_add(1, Ordering::Relaxed) % 2_000;
        let port = u16::try_from(port).unwrap();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

impl Server {
    /// Starts it, on the same port each time, with what it had confirmed.
    pub async fn start(&mut self) {
        self.launch();
        self.wait().await;
    }

    fn launch(&mut self) {
        let child = self
            .command(&self.program)
            .env("RABBITMQ_ALLOW_INPUT", "1")
            .env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", "-noinput +S 1:1 +sbwt none")
            .env("RABBITMQ_DIST_PORT", self.distribution.to_string())
            .env("RABBITMQ_CONFIG_FILE", self.dir.join("rabbitmq.conf"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", self.dir.join("plugins"))
            .env("RABBITMQ_MNESIA_BASE", self.dir.join("data"))
            .env("RABBITMQ_LOG_BASE", self.dir.join("log"))
            .env("RABBITMQ_PID_FILE", self.dir.join("broker.pid"))
            .current_dir(&self.dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("rabbitmq-server starts");
        self.child = Some(child);
    }

    /// Waits until it serves: it greets only when it has started whole.
    async fn wait(&self) {
        let deadline = Instant::now() + START_LIMIT;
        loop {
            assert!(Instant::now() < deadline, "RabbitMQ does not serve: see {:?}", self.dir);
            if greets(self.port).await {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .env("HOME", &self.epmd.home)
            .env("ERL_EPMD_PORT", self.epmd.port.to_string())
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_NODENAME", &self.node);
        command
    }

    /// Runs `rabbitmqctl`, which must succeed, and gives what it prints.
    pub async fn ctl(&self, arguments: &[&str]) -> String {
        let tool = self.program.with_file_name("rabbitmqctl");
        let mut command = self.command(&tool);
        command.args(["-q", "-n", &self.node]).args(arguments).stdin(Stdio::null());
        let output: Output =
            tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "rabbitmqctl {arguments:?}: {text}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        text
    }

    /// Waits until every quorum queue has a majority without this node.
    pub async fn can_be_missed(&self) {
        let deadline = Instant::now() + START_LIMIT;
        loop {
            let tool = self.program.with_file_name("rabbitmq-queues");
            let mut command = self.command(&tool);
            command.args(["-q", "-n", &self.node, "check_if_node_is_quorum_critical"]);
            let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap();
            if output.unwrap().status.success() {
                return;
            }
            assert!(Instant::now() < deadline, "the other nodes never have all queues");
        }
    }

    /// Asks it to end, and waits until it has.
    ///
    /// RabbitMQ 3.10 writes down half a second late which quorum queues and streams a node has: killed
    /// sooner than that after their making, it does not find them again. [`kill`](Self::kill) is for
    /// brokers that have been there for longer.
    pub async fn stop(&mut self) {
        let Some(child) = &mut self.child else { return };
        let asked = Command::new("kill").args(["-TERM", &child.id().to_string()]).status();
        assert!(asked.unwrap().success());
        let deadline = Instant::now() + START_LIMIT;
        while child.try_wait().unwrap().is_none() {
            assert!(Instant::now() < deadline, "RabbitMQ does not end");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.child = None;
    }

    /// Kills it, without a word to anybody.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    pub fn url(&self) -> String {
        url(self.port)
    }

    /// Transports as one process has them.
    pub fn process(&self) -> Process {
        Process::new(&json!({"url": self.url()}), json!({}))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn url(port: u16) -> String {
    format!("amqp://guest:guest@127.0.0.1:{port}/%2f")
}

async fn greets(port: u16) -> bool {
    let greeted = async {
        let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.ok()?;
        stream.write_all(b"AMQP\0\0\x09\x01").await.ok()?;
        let mut byte = [0];
        stream.read_exact(&mut byte).await.ok()?;
        Some(())
    };
    tokio::time::timeout(Duration::from_secs(2), greeted)
        .await
        .is_ok_and(|greeted| greeted.is_some())
}

/// A broker to share: the one that the environment names, or one of the test's own.
pub enum Shared {
    Named(String),
    Own(Server),
    None,
}

impl Shared {
    pub async fn new() -> Self {
        match env::var("LIGHTBUS_TEST_AMQP_URL") {
            Ok(url) => Self::Named(url),
            Err(_) => server().await.map_or(Self::None, Self::Own),
        }
    }

    pub fn url(&self) -> Option<String> {
        match self {
            Self::Named(url) => Some(url.clone()),
            Self::Own(server) => Some(server.url()),
            Self::None => None,
        }
    }
}

/// A connection of the test's own, with a channel.
pub async fn channel(url: &str) -> (lapin::Connection, lapin::Channel) {
    let connection = lapin::Connection::connect(url, lapin::ConnectionProperties::default());
    let connection = soon(connection).await.unwrap();
    let channel = soon(connection.create_channel()).await.unwrap();
    (connection, channel)
}

/// Publishes something as it is.
pub async fn publish(
    url: &str,
    exchange: &str,
    key: &str,
    properties: lapin::BasicProperties,
    body: &[u8],
) {
    let (connection, channel) = channel(url).await;
    soon(channel.confirm_select(Default::default())).await.unwrap();
    let options = lapin::options::BasicPublishOptions { mandatory: true, immediate: false };
    let confirm = channel.basic_publish(exchange.into(), key.into(), options, body, properties);
    let confirmed = soon(soon(confirm).await.unwrap()).await.unwrap();
    assert!(confirmed.is_ack() && confirmed.take_message().is_none(), "it went nowhere: {key}");
    soon(connection.close(200, "done".into())).await.unwrap();
}

/// Deletes a queue.
pub async fn delete_queue(url: &str, queue: &str) {
    let (connection, channel) = channel(url).await;
    soon(channel.queue_delete(queue.into(), Default::default())).await.unwrap();
    soon(connection.close(200, "done".into())).await.unwrap();
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
        Self::with(common, event, json!({}))
    }

    pub fn with(common: &Value, event: Value, rpc: Value) -> Self {
        let factory = AmqpFactory::default();
        let section = |more: Value| {
            let mut options = common.clone();
            let (Some(options_map), Value::Object(more)) = (options.as_object_mut(), more) else {
                panic!("options are objects")
            };
            options_map.extend(more);
            ConfigSection::new("test", options)
        };
        Self {
            rpc: factory.rpc(&section(rpc)).unwrap(),
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
pub fn event(id: &str, api: &str) -> EventMessage {
    let fields = fields(&[("sku", "\"pen\""), ("price", "1.10")]);
    EventMessage::new(id, api, "opened", 2, fields)
}

pub fn listen(api: &str, process: &str) -> ListenSpec {
    ListenSpec {
        group: GroupSpec::new("shop", format!("greeter-of-{api}")),
        process: process.into(),
        events: vec![EventSelector::one(api, "opened")],
        start: Start::New,
        flow: FlowControl::new(100, 400).close_within(Duration::from_secs(2)),
    }
}

/// A name that nobody else has.
pub fn unique(name: &str) -> String {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    format!("{name}{:x}x{:x}x{number}", std::process::id(), now.as_millis() & 0xff_ffff)
}
