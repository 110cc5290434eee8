//! A RabbitMQ of a test's own, alone or as a cluster of three.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{LIMIT, Patience, folder::Folder, free_port, skipped};

/// A broker starts within this, also while others do.
const START_LIMIT: Duration = Duration::from_secs(90);

/// A RabbitMQ, ended when it is dropped.
#[derive(Debug)]
pub struct RabbitServer {
    child: Option<Child>,
    epmd: Arc<Epmd>,
    node: String,
    port: u16,
    distribution: u16,
    folder: Folder,
    program: PathBuf,
}

/// The name server of some nodes, ended with the last.
#[derive(Debug)]
struct Epmd {
    child: Child,
    port: u16,
    /// Holds the cookie by which nodes and `rabbitmqctl` know each other.
    home: Folder,
}

impl Epmd {
    async fn start() -> Option<Self> {
        let port = free_port();
        let home = Folder::new("epmd");
        let cookie = home.path().join(".erlang.cookie");
        fs::write(&cookie, "lightbus-tests").unwrap();
        let only_me = std::os::unix::fs::PermissionsExt::from_mode(0o400);
        fs::set_permissions(&cookie, only_me).unwrap();
        let child = Command::new("epmd")
            .args(["-port", &port.to_string(), "-address", "127.0.0.1"])
            .current_dir(home.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let epmd = Self { child, port, home };
        let patience = Patience::of(LIMIT);
        while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            assert!(patience.lasts().await, "epmd does not listen");
        }
        Some(epmd)
    }
}

impl Drop for Epmd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
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

impl RabbitServer {
    /// Starts one; `None` if there is none to start.
    pub async fn start() -> Option<Self> {
        Self::start_with("").await
    }

    /// Starts one with further lines of configuration.
    pub async fn start_with(config: &str) -> Option<Self> {
        let mut server = Self::prepared(None, config).await?;
        server.restart().await;
        Some(server)
    }

    /// Starts a cluster of three, each with the queues of the others.
    pub async fn start_cluster() -> Option<Vec<Self>> {
        let mut first = Self::prepared(None, "").await?;
        let epmd = Arc::clone(&first.epmd);
        first.launch();
        let mut nodes = vec![first];
        for _ in 0..2 {
            let mut node = Self::prepared(Some(Arc::clone(&epmd)), "").await?;
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

    async fn prepared(epmd: Option<Arc<Epmd>>, config: &str) -> Option<Self> {
        let program = program();
        let epmd = match (epmd, &program) {
            (Some(epmd), _) => Some(epmd),
            (None, Some(_)) => Epmd::start().await.map(Arc::new),
            (None, None) => None,
        };
        let (Some(program), Some(epmd)) = (program, epmd) else {
            skipped(
                "RabbitMQ cannot be started: install rabbitmq-server, or name it in LIGHTBUS_TEST_RABBITMQ_SERVER",
            );
            return None;
        };
        let port = free_port();
        let folder = Folder::new("rabbitmq");
        fs::write(
            folder.path().join("rabbitmq.conf"),
            format!(
                "listeners.tcp.1 = 127.0.0.1:{port}\nlog.console = false\ndisk_free_limit.absolute = 50MB\n{config}"
            ),
        )
        .unwrap();
        fs::write(folder.path().join("plugins"), "[].\n").unwrap();
        let node = format!("test{port}@localhost");
        Some(Self { child: None, epmd, node, port, distribution: free_port(), folder, program })
    }

    /// Starts it after it was stopped or killed, on the same port, with what it had confirmed.
    pub async fn restart(&mut self) {
        self.launch();
        self.wait().await;
    }

    fn launch(&mut self) {
        let child = self
            .command(&self.program)
            .env("RABBITMQ_ALLOW_INPUT", "1")
            .env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", "-noinput +S 1:1 +sbwt none")
            .env("RABBITMQ_DIST_PORT", self.distribution.to_string())
            .env("RABBITMQ_CONFIG_FILE", self.folder.path().join("rabbitmq.conf"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", self.folder.path().join("plugins"))
            .env("RABBITMQ_MNESIA_BASE", self.folder.path().join("data"))
            .env("RABBITMQ_LOG_BASE", self.folder.path().join("log"))
            .env("RABBITMQ_PID_FILE", self.folder.path().join("broker.pid"))
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("rabbitmq-server starts");
        self.child = Some(child);
    }

    /// Waits until it serves: it greets only when it has started whole.
    async fn wait(&self) {
        let patience = Patience::of(START_LIMIT);
        while !greets(self.port).await {
            assert!(patience.lasts().await, "RabbitMQ does not serve: see {:?}", self.folder);
        }
    }

    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .env("HOME", self.epmd.home.path())
            .env("ERL_EPMD_PORT", self.epmd.port.to_string())
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_NODENAME", &self.node);
        command
    }

    /// Runs `rabbitmqctl`, which must succeed, and returns what it prints.
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
        let patience = Patience::of(START_LIMIT);
        loop {
            let tool = self.program.with_file_name("rabbitmq-queues");
            let mut command = self.command(&tool);
            command.args(["-q", "-n", &self.node, "check_if_node_is_quorum_critical"]);
            let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap();
            if output.unwrap().status.success() {
                return;
            }
            assert!(patience.lasts().await, "the other nodes never have all queues");
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
        let patience = Patience::of(START_LIMIT);
        while child.try_wait().unwrap().is_none() {
            assert!(patience.lasts().await, "RabbitMQ does not end");
        }
        self.child = None;
    }

    /// Kills it, as a crash does.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Where it is.
    #[must_use]
    pub fn url(&self) -> String {
        format!("amqp://guest:guest@127.0.0.1:{}/%2f", self.port)
    }

    /// Where it listens.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for RabbitServer {
    fn drop(&mut self) {
        self.kill();
    }
}

async fn greets(port: u16) -> bool {
    let greeted = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
        stream.write_all(b"AMQP\0\0\x09\x01").await.ok()?;
        let mut byte = [0];
        stream.read_exact(&mut byte).await.ok()?;
        Some(())
    };
    tokio::time::timeout(Duration::from_secs(2), greeted)
        .await
        .is_ok_and(|greeted| greeted.is_some())
}
