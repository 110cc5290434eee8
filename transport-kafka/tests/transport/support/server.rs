//! A Kafka of the test's own.

use std::{
    env, fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use rdkafka::{
    ClientConfig,
    consumer::{BaseConsumer, Consumer as _},
};
use tokio::time::Instant;

/// A broker may take this long to start.
const LIMIT: Duration = Duration::from_secs(90);

/// A node, ended when it is dropped.
pub struct Server {
    child: Option<Child>,
    dir: PathBuf,
    home: PathBuf,
    /// Where it listens, and where it says that it listens.
    pub port: u16,
    pub advertised: u16,
}

impl Server {
    /// Starts one by itself, which says that it listens at its own port.
    pub async fn single() -> Option<Self> {
        let port = free_port();
        Self::advertising(port, port).await
    }

    /// Starts one that says that it listens at the port of a proxy.
    pub async fn advertising(port: u16, advertised: u16) -> Option<Self> {
        let controller = free_port();
        let voters = format!("1@127.0.0.1:{controller}");
        let mut server = Self::prepared(1, 1, (port, advertised, controller), &voters, "", &[])?;
        server.launch();
        server.await_brokers(1).await;
        Some(server)
    }

    /// Starts one that also listens at these ports, which may be encrypted, to users it knows: further
    /// lines of its settings, and of the users whose passwords it is to prove.
    pub async fn with_users(
        listeners: &str,
        protocols: &str,
        more: &str,
        users: &[&str],
    ) -> Option<Self> {
        let (port, controller) = (free_port(), free_port());
        let voters = format!("1@127.0.0.1:{controller}");
        let mut server = Self::prepared(1, 1, (port, port, controller), &voters, more, users)?;
        let path = server.dir.join("server.properties");
        let text = fs::read_to_string(&path).unwrap();
        let text = text
            .replace("advertised.listeners=", &format!("advertised.listeners={listeners},"))
            .replace("\nlisteners=", &format!("\nlisteners={listeners},"))
            .replace("protocol.map=", &format!("protocol.map={protocols},"));
        fs::write(&path, format!("{text}inter.broker.listener.name=PLAINTEXT\n")).unwrap();
        server.format(users);
        server.launch();
        server.await_brokers(1).await;
        Some(server)
    }

    /// Starts a cluster.
    pub async fn cluster(count: usize) -> Option<Vec<Self>> {
        let ports: Vec<(u16, u16)> = (0..count).map(|_| (free_port(), free_port())).collect();
        let voters: Vec<String> = ports
            .iter()
            .enumerate()
            .map(|(index, (_, controller))| format!("{}@127.0.0.1:{controller}", index + 1))
            .collect();
        let mut servers = Vec::new();
        for (index, (port, controller)) in ports.iter().enumerate() {
            let ports = (*port, *port, *controller);
            let mut server = Self::prepared(index + 1, count, ports, &voters.join(","), "", &[])?;
            server.launch();
            servers.push(server);
        }
        for server in &servers {
            server.await_brokers(count).await;
        }
        Some(servers)
    }

    /// A formatted node; `None`, and loud, if there is no Kafka to start.
    fn prepared(
        id: usize,
        count: usize,
        (port, advertised, controller): (u16, u16, u16),
        voters: &str,
        more: &str,
        users: &[&str],
    ) -> Option<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let home =
            PathBuf::from(super::named("LIGHTBUS_TEST_KAFKA_HOME", "scripts/brokers up --kafka")?);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let dir = env::temp_dir().join(format!("lightbus-kafka-{}-{number}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let text = format!(
            "process.roles=broker,controller\nnode.id={id}\ncontroller.quorum.voters={voters}\n\
             controller.listener.names=CONTROLLER\n\
             listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}\n\
             advertised.listeners=PLAINTEXT://127.0.0.1:{advertised}\n\
             listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT\n\
             log.dirs={dir}/data\nauto.create.topics.enable=false\n\
             group.initial.rebalance.delay.ms=0\ngroup.min.session.timeout.ms=1000\n\
             offsets.topic.num.partitions=2\noffsets.topic.replication.factor={count}\n\
             min.insync.replicas={majority}\nbroker.session.timeout.ms=3000\n\
             broker.heartbeat.interval.ms=500\ncontrolled.shutdown.enable=false\n\
             log.cleaner.dedupe.buffer.size=4000000\nnum.network.threads=2\nnum.io.threads=4\n",
            dir = dir.display(),
            majority = count.div_ceil(2),
        );
        fs::write(dir.join("server.properties"), format!("{text}{more}")).unwrap();
        let server = Self { child: None, dir, home, port, advertised };
        if users.is_empty() {
            server.format(users);
        }
        Some(server)
    }

    fn format(&self, users: &[&str]) {
        let formatted = self
            .java(&["kafka.tools.StorageTool", "format", "--cluster-id", "lightbusTestClusterAA"])
            .args(["--config", "server.properties"])
            .args(users.iter().flat_map(|user| ["--add-scram", user]))
            .stderr(Stdio::null())
            .status()
            .expect("java");
        assert!(formatted.success(), "the storage of Kafka cannot be formatted");
    }

    fn java(&self, arguments: &[&str]) -> Command {
        let java =
            env::var("JAVA_HOME").map_or("java".into(), |home| Path::new(&home).join("bin/java"));
        let mut command = Command::new(java);
        command
            .args(["-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp"])
            .arg(format!("{}/libs/*", self.home.display()))
            .args(arguments)
            .current_dir(&self.dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        command
    }

    /// Starts it, at the same address each time, and does not wait.
    pub fn launch(&mut self) {
        let log = fs::File::create(self.dir.join("log")).unwrap();
        let child = self.java(&["kafka.Kafka", "server.properties"]).stderr(log).spawn();
        self.child = Some(child.expect("java"));
    }

    /// Waits until it serves, and knows of so many brokers.
    pub async fn await_brokers(&self, count: usize) {
        let brokers = format!("127.0.0.1:{}", self.port);
        let deadline = Instant::now() + LIMIT;
        loop {
            let brokers = brokers.clone();
            let found = tokio::task::spawn_blocking(move || {
                let consumer: BaseConsumer = ClientConfig::new()
                    .set("bootstrap.servers", brokers)
                    .set("reconnect.backoff.max.ms", "100")
                    .set_log_level(rdkafka::config::RDKafkaLogLevel::Emerg)
                    .create()
                    .unwrap();
                let found = consumer.fetch_metadata(None, Duration::from_secs(2));
                found.map_or(0, |found| found.brokers().len())
            })
            .await
            .unwrap();
            if found >= count {
                return;
            }
            if Instant::now() > deadline {
                let log = fs::read_to_string(self.dir.join("log")).unwrap_or_default();
                let tail: Vec<_> = log.lines().rev().take(20).collect();
                panic!("Kafka does not serve: {tail:#?}");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Kills it.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Where clients find it.
    pub fn brokers(&self) -> String {
        format!("127.0.0.1:{}", self.advertised)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// A port nobody listens on, below those the system hands out by itself.
pub fn free_port() -> u16 {
    use std::hash::{BuildHasher, Hasher};
    loop {
        let random = std::collections::hash_map::RandomState::new().build_hasher().finish();
        let port = 22_000 + u16::try_from(random % 10_000).unwrap();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
