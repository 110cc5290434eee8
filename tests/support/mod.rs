//! What the tests of services share: buses on every transport, a redis-server of a test's own,
//! waiting for a condition, and child processes whose output is awaited line by line.
#![allow(clippy::unwrap_used, reason = "in a test a panic is how a failure is told")]
#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test uses a part of it")]
#![allow(missing_debug_implementations, reason = "nobody prints them")]

pub mod proxy;
pub mod python;

use std::{
    io::{BufRead, BufReader},
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Mutex, mpsc},
    time::{Duration, Instant},
};

use lightbus::{Bus, BusBuilder, config::Config};

/// How long anything may take on a slow machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until the condition holds, and fails with `what` if it never does.
pub async fn eventually<F: AsyncFnMut() -> bool>(what: &str, mut condition: F) {
    let deadline = Instant::now() + PATIENCE;
    while !condition().await {
        assert!(Instant::now() < deadline, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A future that must end soon.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("did not end: {what}"))
}

/// A port that nobody listens on at the moment.
pub fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

/// A redis-server of its own, which ends with the test.
pub struct RedisServer {
    child: Option<Child>,
    port: u16,
    folder: PathBuf,
}

impl RedisServer {
    /// Starts one, or says loudly that there is none. With `CI=true` that is a failure.
    pub fn start() -> Option<Self> {
        let port = free_port();
        let folder =
            std::env::temp_dir().join(format!("lightbus-redis-{}-{port}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let mut server = Self { child: None, port, folder };
        match server.launch() {
            Ok(()) => Some(server),
            Err(error) => {
                let missing = format!("SKIPPED: redis-server cannot be started: {error}");
                assert!(std::env::var("CI").as_deref() != Ok("true"), "{missing}");
                eprintln!("{missing}");
                None
            }
        }
    }

    fn launch(&mut self) -> std::io::Result<()> {
        let program = std::env::var("LIGHTBUS_TEST_REDIS_SERVER")
            .unwrap_or_else(|_| "redis-server".to_owned());
        let child = Command::new(program)
            .args([
                "--bind",
                "127.0.0.1",
                "--port",
                &self.port.to_string(),
                "--save",
                "",
                "--appendonly",
                "yes",
            ])
            .args(["--appendfsync", "always", "--loglevel", "warning", "--dir"])
            .arg(&self.folder)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        self.child = Some(child);
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_err() {
            assert!(Instant::now() < deadline, "redis-server never listened");
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Ends it as a crash does. What it has confirmed is in its file.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts it again on the same port with the same data.
    pub fn restart(&mut self) {
        self.kill();
        self.launch().unwrap();
    }

    /// A configuration file for it, as an operator writes one.
    pub fn config_file(&self) -> PathBuf {
        let path = self.folder.join("lightbus.yaml");
        std::fs::write(&path, redis_yaml(&self.url(), "")).unwrap();
        path
    }

    /// Runs a command by hand.
    pub fn command(&self, words: &[&str]) -> String {
        let output = Command::new("redis-cli")
            .args(["-p", &self.port.to_string()])
            .args(words)
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Everything over this Redis; `event` has further options of the event transport.
pub fn redis_yaml(url: &str, event: &str) -> String {
    format!(
        "bus:\n  schema:\n    transport: {{ redis: {{ url: \"{url}\" }} }}\napis:\n  default:\n    \
         rpc_transport: {{ redis: {{ url: \"{url}\" }} }}\n    result_transport: {{ redis: {{ url: \"{url}\" }} }}\n    \
         event_transport: {{ redis: {{ url: \"{url}\"{event} }} }}\n"
    )
}

/// A bus on this Redis.
pub async fn redis_bus(url: &str, service: &str) -> Bus {
    let config = Config::from_yaml(&redis_yaml(url, "")).unwrap();
    soon("connecting", Bus::builder().config(config).service_name(service).connect()).await.unwrap()
}

/// A RabbitMQ that others use too, and a prefix that keeps them apart.
#[cfg(feature = "amqp")]
pub struct SharedRabbit {
    url: String,
    prefix: String,
}

#[cfg(feature = "amqp")]
impl SharedRabbit {
    /// The one of the environment, or says loudly that there is none. With `CI=true` that is a failure.
    pub fn find() -> Option<Self> {
        static NUMBER: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
        let Ok(url) = std::env::var("LIGHTBUS_TEST_AMQP_URL") else {
            let missing = "SKIPPED: LIGHTBUS_TEST_AMQP_URL is not set: scripts/brokers up --amqp";
            assert!(std::env::var("CI").as_deref() != Ok("true"), "{missing}");
            eprintln!("{missing}");
            return None;
        };
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_millis();
        Some(Self { url, prefix: format!("test-{now}-{}-{number}.", std::process::id()) })
    }

    /// Everything over it.
    pub fn yaml(&self) -> String {
        let Self { url, prefix } = self;
        let options = format!("{{ amqp: {{ url: \"{url}\", prefix: \"{prefix}\" }} }}");
        format!(
            "bus:\n  schema:\n    transport: {options}\napis:\n  default:\n    rpc_transport: {options}\n    \
             result_transport: {options}\n    event_transport: {options}\n"
        )
    }
}

/// Everything over this Kafka, in topics and groups whose names begin with `prefix`.
pub fn kafka_yaml(brokers: &str, prefix: &str) -> String {
    // As a test wants it: few partitions, and a process that is gone is soon noticed.
    let common = format!("brokers: \"{brokers}\", prefix: \"{prefix}\", partitions: 4");
    let group = format!("{common}, session_timeout: 2");
    format!(
        "bus:\n  schema:\n    transport: {{ kafka: {{ {common} }} }}\napis:\n  default:\n    \
         rpc_transport: {{ kafka: {{ {group} }} }}\n    result_transport: {{ kafka: {{ {common} }} }}\n    \
         event_transport: {{ kafka: {{ {group} }} }}\n"
    )
}

/// A broker on which buses meet, for tests that run on every transport.
pub enum Place {
    Memory(lightbus::Registry),
    Redis(RedisServer),
    #[cfg(feature = "amqp")]
    Amqp(SharedRabbit),
    /// Brokers that others use too, and a prefix that nobody else has.
    #[cfg(feature = "kafka")]
    Kafka {
        brokers: String,
        prefix: String,
    },
}

impl Place {
    pub fn memory() -> Option<Self> {
        Some(Self::Memory(lightbus::registry()))
    }

    pub fn redis() -> Option<Self> {
        RedisServer::start().map(Self::Redis)
    }

    #[cfg(feature = "amqp")]
    pub fn amqp() -> Option<Self> {
        SharedRabbit::find().map(Self::Amqp)
    }

    #[cfg(feature = "kafka")]
    /// The brokers that `scripts/brokers` has started. Without them says so loudly; with `CI=true` that
    /// is a failure.
    pub fn kafka() -> Option<Self> {
        use std::hash::{BuildHasher, Hasher};
        let Ok(brokers) = std::env::var("LIGHTBUS_TEST_KAFKA_BROKERS") else {
            let missing = "SKIPPED: LIGHTBUS_TEST_KAFKA_BROKERS is not set; `scripts/brokers up --kafka` sets it";
            assert!(std::env::var("CI").as_deref() != Ok("true"), "{missing}");
            eprintln!("{missing}");
            return None;
        };
        let random = std::collections::hash_map::RandomState::new().build_hasher().finish();
        Some(Self::Kafka { brokers, prefix: format!("t{random:016x}.") })
    }

    /// Whether the broker tells how often an event was delivered. Kafka does not count.
    pub fn counts_deliveries(&self) -> bool {
        match self {
            #[cfg(feature = "kafka")]
            Self::Kafka { .. } => false,
            _ => true,
        }
    }

    /// Whether events without a key keep their order. Kafka spreads them over partitions.
    pub fn orders_without_keys(&self) -> bool {
        self.counts_deliveries()
    }

    /// Another process of the same bus, as far as the bus can tell.
    pub async fn bus(&self, service: &str) -> Bus {
        self.bus_with(service, "").await
    }

    /// The same; `settings` are further lines of `apis.default`.
    pub async fn bus_with(&self, service: &str, settings: &str) -> Bus {
        self.connect(service, settings, |_| ()).await
    }

    /// The same, with a configuration that was changed.
    pub async fn bus_changed(&self, service: &str, change: impl FnOnce(&mut Config)) -> Bus {
        self.connect(service, "", change).await
    }

    async fn connect(
        &self,
        service: &str,
        settings: &str,
        change: impl FnOnce(&mut Config),
    ) -> Bus {
        soon("connecting", self.builder(service, settings, change).connect()).await.unwrap()
    }

    /// What makes another process of the same bus.
    pub fn builder(
        &self,
        service: &str,
        settings: &str,
        change: impl FnOnce(&mut Config),
    ) -> BusBuilder {
        let registry = match self {
            Self::Memory(registry) => registry.clone(),
            _ => lightbus::registry(),
        };
        let mut config = Config::from_yaml(&self.yaml(settings)).unwrap();
        change(&mut config);
        Bus::builder().config(config).registry(registry).service_name(service)
    }

    /// Everything over it, as an operator writes it.
    pub fn yaml(&self, settings: &str) -> String {
        let yaml = match self {
            Self::Memory(_) => "bus: { schema: { transport: { memory: {} } } }\napis:\n  default:\n    rpc_transport: { memory: {} }\n    \
                            result_transport: { memory: {} }\n    event_transport: { memory: {} }\n"
                .to_owned(),
            Self::Redis(server) => redis_yaml(&server.url(), ""),
            #[cfg(feature = "amqp")]
            Self::Amqp(rabbit) => rabbit.yaml(),
            #[cfg(feature = "kafka")]
            Self::Kafka { brokers, prefix } => kafka_yaml(brokers, prefix),
        };
        if settings.is_empty() { yaml } else { format!("{yaml}    {settings}\n") }
    }
}

/// Makes of each case a test per transport: `memory::case`, `redis::case`, and with their features
/// `amqp::case` and `kafka::case`.
#[macro_export]
macro_rules! on_every_transport {
    ($($case:ident),* $(,)?) => {
        mod memory {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                if let Some(place) = $crate::support::Place::memory() {
                    super::$case(place).await;
                }
            })*
        }
        mod redis {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                if let Some(place) = $crate::support::Place::redis() {
                    super::$case(place).await;
                }
            })*
        }
        #[cfg(feature = "amqp")]
        mod amqp {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                if let Some(place) = $crate::support::Place::amqp() {
                    super::$case(place).await;
                }
            })*
        }
        #[cfg(feature = "kafka")]
        mod kafka {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                if let Some(place) = $crate::support::Place::kafka() {
                    super::$case(place).await;
                }
            })*
        }
    };
}

/// A child process whose lines are awaited. It is killed when dropped.
pub struct Program {
    child: Child,
    lines: Mutex<mpsc::Receiver<String>>,
    seen: Vec<String>,
}

impl Program {
    pub fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (sender, lines) = mpsc::sync_channel(100_000);
        let streams: [Box<dyn std::io::Read + Send>; 2] =
            [Box::new(child.stdout.take().unwrap()), Box::new(child.stderr.take().unwrap())];
        for stream in streams {
            let sender = sender.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    if sender.send(line).is_err() {
                        break;
                    }
                }
            });
        }
        Self { child, lines: Mutex::new(lines), seen: Vec::new() }
    }

    /// An example of this package, as cargo builds it beside the tests.
    pub fn example(name: &str, config: Option<&Path>) -> Command {
        let mut program = std::env::current_exe().unwrap();
        program.pop();
        program.pop();
        program.push("examples");
        program.push(name);
        let mut command = Command::new(&program);
        assert!(program.exists(), "{} is not built: cargo build --examples", program.display());
        command.env_remove("LIGHTBUS_CONFIG").env_remove("LIGHTBUS_SERVICE_NAME").env_remove("CI");
        if let Some(config) = config {
            command.env("LIGHTBUS_CONFIG", config);
        }
        command
    }

    /// Waits for a line with this in it, on stdout or stderr.
    pub fn wait_for(&mut self, part: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = self.lines.lock().unwrap().recv_timeout(left);
            match line {
                Ok(line) if line.contains(part) => {
                    self.seen.push(line.clone());
                    return line;
                }
                Ok(line) => self.seen.push(line),
                Err(_) => panic!("never printed {part:?}, but:\n{}", self.seen.join("\n")),
            }
        }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has ended by now.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Sends a signal by its name, as an operator does.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill")
            .args([&format!("-{name}"), &self.id().to_string()])
            .status()
            .unwrap();
        assert!(sent.success());
    }

    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Waits for its end; gives the exit code and all that it printed.
    pub fn finish(mut self) -> (Option<i32>, String) {
        let deadline = Instant::now() + PATIENCE;
        let code = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status.code();
            }
            assert!(
                Instant::now() < deadline,
                "did not end, but printed:\n{}",
                self.seen.join("\n")
            );
            std::thread::sleep(Duration::from_millis(5));
        };
        while let Ok(line) = self.lines.lock().unwrap().recv_timeout(Duration::from_millis(200)) {
            self.seen.push(line);
        }
        (code, std::mem::take(&mut self.seen).join("\n"))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.kill();
    }
}
