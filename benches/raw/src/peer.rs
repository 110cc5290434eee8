//! The other process of a measurement: this executable, started again.

use std::ffi::OsStr;
use std::io::{self, BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::Result;

const READY: &str = "ready";
/// How long the process may take to leave.
const FAREWELL: Duration = Duration::from_secs(10);

/// A process started from this executable, ended when dropped.
#[derive(Debug)]
pub struct Peer {
    child: Child,
}

impl Peer {
    /// Starts this executable with these arguments and waits until it calls [`ready`].
    pub fn start<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Result<Self> {
        let child = Command::new(std::env::current_exe()?)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut peer = Self { child };
        peer.wait_until_ready()?;
        Ok(peer)
    }

    /// The id of the process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let stdout = self.child.stdout.take().ok_or("the peer has no standard output")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        if line.trim_end() != READY {
            return Err("the peer ended before it was ready".into());
        }
        Ok(())
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It sees the end of its input, and leaves: killed, it would be missed by a Kafka group, which
        // gives its partitions to nobody else for a while.
        drop(self.child.stdin.take());
        let until = Instant::now() + FAREWELL;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < until {
            thread::sleep(Duration::from_millis(5));
        }
        // Fails only if the process has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Called in the started process: tells the starter that it serves now.
///
/// From here on the process ends when its starter does, however that comes about.
pub fn ready() {
    println!("{READY}");
    thread::spawn(|| {
        await_end_of_input();
        std::process::exit(0);
    });
}

/// The same, but for the end: this completes then, and the process may take its leave.
pub async fn ready_until_left() {
    println!("{READY}");
    let (left, wait) = tokio::sync::oneshot::channel();
    thread::spawn(|| {
        await_end_of_input();
        // Nobody waits any more: then the process ends anyhow.
        let _ = left.send(());
    });
    // Never closed without a word.
    let _ = wait.await;
}

fn await_end_of_input() {
    // An error is an end, too.
    let _ = io::stdin().read_to_end(&mut Vec::new());
}
