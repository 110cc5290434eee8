//! A Kafka of a test's own, alone or as a cluster.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use crate::{Patience, folder::Folder, free_port, named};

/// A broker may take this long to start.
const START_LIMIT: Duration = Duration::from_secs(90);

/// A node, ended when it is dropped.
#[derive(Debug)]
pub struct KafkaServer {
    child: Option<Child>,
    folder: Folder,
    home: PathBuf,
    /// Where it says that it listens.
    advertised: u16,
}

impl KafkaServer {
    /// Starts one by itself, which says that it listens at its own port.
    pub async fn start() -> Option<Self> {
        let port = free_port();
        Self::start_advertising(port, port).await
    }

    /// Starts one that says that it listens at the port of a proxy.
    pub async fn start_advertising(port: u16, advertised: u16) -> Option<Self> {
        let controller = free_port();
        let voters = format!("1@127.0.0.1:{controller}");
        let mut server = Self::prepared(1, 1, (port, advertised, controller), &voters, "", &[])?;
        server.launch();
        server.await_started().await;
        Some(server)
    }

    /// Starts one that also listens at these ports, which may be encrypted, to users it knows: further
    /// lines of its settings, and of the users whose passwords it is to prove.
    pub async fn start_with_users(
        listeners: &str,
        protocols: &str,
        more: &str,
        users: &[&str],
    ) -> Option<Self> {
        let (port, controller) = (free_port(), free_port());
        let voters = format!("1@127.0.0.1:{controller}");
        let mut server = Self::prepared(1, 1, (port, port, controller), &voters, more, users)?;
        let path = server.folder.path().join("server.properties");
        let text = fs::read_to_string(&path).unwrap();
        let text = text
            .replace("advertised.listeners=", &format!("advertised.listeners={listeners},"))
            .replace("\nlisteners=", &format!("\nlisteners={listeners},"))
            .replace("protocol.map=", &format!("protocol.map={protocols},"));
        fs::write(&path, format!("{text}inter.broker.listener.name=PLAINTEXT\n")).unwrap();
        server.format(users);
        server.launch();
        server.await_started().await;
        Some(server)
    }

    /// Starts a cluster of so many nodes.
    pub async fn start_cluster(count: usize) -> Option<Vec<Self>> {
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
            server.await_started().await;
        }
        Some(servers)
    }

    /// A formatted node; `None`, if there is no Kafka to start.
    fn prepared(
        id: usize,
        count: usize,
        (port, advertised, controller): (u16, u16, u16),
        voters: &str,
        more: &str,
        users: &[&str],
    ) -> Option<Self> {
        let home = PathBuf::from(named("LIGHTBUS_TEST_KAFKA_HOME", "scripts/brokers up --kafka")?);
        let folder = Folder::new("kafka");
        let dir = folder.path();
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
        let server = Self { child: None, folder, home, advertised };
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
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        command
    }

    /// Starts it, at the same address each time, and does not wait.
    pub fn launch(&mut self) {
        let log = fs::File::create(self.folder.path().join("log")).unwrap();
        let child = self
            .java(&["kafka.Kafka", "server.properties"])
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn();
        self.child = Some(child.expect("java"));
    }

    /// Waits until it serves: a node says so when it knows of the others and they of it.
    pub async fn await_started(&self) {
        let log = || fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        let patience = Patience::of(START_LIMIT);
        while !log().contains("Kafka Server started") {
            if !patience.lasts().await {
                let log = log();
                let tail: Vec<_> = log.lines().rev().take(20).collect();
                panic!("Kafka does not serve: {tail:#?}");
            }
        }
    }

    /// Kills it, as a crash does.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Where clients find it.
    #[must_use]
    pub fn brokers(&self) -> String {
        format!("127.0.0.1:{}", self.advertised)
    }
}

impl Drop for KafkaServer {
    fn drop(&mut self) {
        self.kill();
    }
}
