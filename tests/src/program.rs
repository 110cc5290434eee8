//! Programs as child processes.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Mutex, mpsc},
    time::{Duration, Instant},
};

use lightbus_test_brokers::LIMIT;

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

    /// An example of the package `lightbus`, as cargo builds it beside the tests.
    pub fn example(name: &str, config: Option<&Path>) -> Command {
        let mut program = std::env::current_exe().unwrap();
        program.pop();
        program.pop();
        program.push("examples");
        program.push(name);
        let mut command = Command::new(&program);
        assert!(
            program.exists(),
            "{} is not built: cargo build -p lightbus --examples",
            program.display()
        );
        command.env_remove("LIGHTBUS_CONFIG").env_remove("LIGHTBUS_SERVICE_NAME").env_remove("CI");
        if let Some(config) = config {
            command.env("LIGHTBUS_CONFIG", config);
        }
        command
    }

    /// Waits for a line with this in it, on stdout or stderr.
    pub fn wait_for(&mut self, part: &str) -> String {
        let deadline = Instant::now() + LIMIT;
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

    /// Waits for its end; returns the exit code and all that it printed.
    pub fn finish(mut self) -> (Option<i32>, String) {
        let deadline = Instant::now() + LIMIT;
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
