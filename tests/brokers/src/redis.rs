//! A `redis-server` of a test's own.

use std::{
    env, fs,
    io::{BufRead, BufReader, ErrorKind, Write},
    net::{Ipv4Addr, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use crate::{LIMIT, folder::Folder, free_port, skipped};

/// A `redis-server`, ended when it is dropped.
#[derive(Debug)]
pub struct RedisServer {
    child: Option<Child>,
    port: u16,
    folder: Folder,
    arguments: Vec<String>,
}

impl RedisServer {
    /// Starts one that loses what it had when it ends; `None` if there is none to start.
    #[must_use]
    pub fn start() -> Option<Self> {
        Self::start_with(&[])
    }

    /// Starts one whose data outlives it: what it has confirmed is there after a
    /// [`restart`](Self::restart).
    #[must_use]
    pub fn start_durable() -> Option<Self> {
        Self::start_with(&["--appendonly", "yes", "--appendfsync", "always"])
    }

    /// Starts one with these options.
    #[must_use]
    pub fn start_with(options: &[&str]) -> Option<Self> {
        Self::prepared(options).launched()
    }

    /// Starts a sentinel that watches the server at this port under the name `main`, and needs one
    /// other to agree.
    #[must_use]
    pub fn start_sentinel(primary: u16) -> Option<Self> {
        let server = Self::prepared(&["sentinel.conf", "--sentinel"]);
        let config = format!(
            "sentinel monitor main 127.0.0.1 {primary} 2\nsentinel down-after-milliseconds main 500\n\
             sentinel failover-timeout main 3000\n"
        );
        fs::write(server.folder().join("sentinel.conf"), config).unwrap();
        server.launched()
    }

    fn prepared(options: &[&str]) -> Self {
        let arguments = options.iter().map(|option| (*option).to_owned()).collect();
        Self { child: None, port: free_port(), folder: Folder::new("redis"), arguments }
    }

    fn launched(mut self) -> Option<Self> {
        let mut started = self.launch();
        // Another server may have taken the port in between.
        while matches!(&started, Err(error) if error.kind() == ErrorKind::AddrInUse) {
            self.port = free_port();
            started = self.launch();
        }
        match started {
            Ok(()) => Some(self),
            Err(error) => {
                skipped(&format!(
                    "redis-server cannot be started ({error}): install it, or name it in LIGHTBUS_TEST_REDIS_SERVER"
                ));
                None
            }
        }
    }

    fn launch(&mut self) -> std::io::Result<()> {
        let program =
            env::var("LIGHTBUS_TEST_REDIS_SERVER").unwrap_or_else(|_| "redis-server".to_owned());
        // A configuration file comes first.
        let is_file = self.arguments.first().is_some_and(|first| !first.starts_with("--"));
        let (file, options) = self.arguments.split_at(usize::from(is_file));
        let child = Command::new(program)
            .args(file)
            .args(["--bind", "127.0.0.1", "--port", &self.port.to_string()])
            .args(["--save", "", "--appendonly", "no", "--loglevel", "warning"])
            .args(options)
            .current_dir(self.folder())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let child = self.child.insert(child);
        let deadline = Instant::now() + LIMIT;
        loop {
            let answers = serves(self.port);
            if child.try_wait()?.is_some() {
                return Err(ErrorKind::AddrInUse.into());
            }
            if answers {
                return Ok(());
            }
            assert!(Instant::now() < deadline, "redis-server does not serve at {}", self.port);
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Kills it, as a crash does.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts it again on the same port, with the data that it kept.
    pub fn restart(&mut self) {
        self.kill();
        self.launch().unwrap();
    }

    /// Where it is.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    /// Where it listens.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where it runs and keeps its data.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Runs a command by `redis-cli` and returns what it prints.
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
    }
}

/// Whether a Redis answers: it listens before it has read what it had. That it wants a password, or
/// an encrypted connection at another port, is an answer too.
fn serves(port: u16) -> bool {
    let asked = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        stream.write_all(b"PING\r\n")?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line)?;
        Ok(line)
    };
    asked().is_ok_and(|line| !line.is_empty() && !line.starts_with("-LOADING"))
}
