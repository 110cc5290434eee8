//! The tool in a real terminal, which `tmux` provides.

use std::process::Command;

use super::{Place, Tool, top::busy};
use lightbus_tests::{LIMIT, Patience, RedisServer};

/// A session of `tmux`.
struct Screen {
    tool: Tool,
}

impl Screen {
    /// Runs a shell script in a terminal of this size. Without tmux, prints so and returns `None`.
    fn start(tool: Tool, script: &str, size: (u16, u16)) -> Option<Self> {
        let screen = Self { tool };
        let (width, height) = (size.0.to_string(), size.1.to_string());
        let lightbus = format!("{} --config lightbus.yaml", env!("CARGO_BIN_EXE_lightbus"));
        // The trap, so that Ctrl-C ends the tool and not the script.
        let script = format!(
            "trap : INT; stty -a > before; {}; echo $? > code.part; stty -a > after; mv code.part code; sleep 60",
            script.replace("LIGHTBUS", &lightbus)
        );
        let started = screen
            .tmux()
            .args(["new-session", "-d", "-x", &width, "-y", &height, "sh", "-c", &script])
            .status();
        match started {
            Ok(status) => assert!(status.success(), "tmux does not start"),
            Err(error) => {
                eprintln!("SKIPPED: tmux cannot be started: {error}");
                return None;
            }
        }
        Some(screen)
    }

    fn tmux(&self) -> Command {
        let mut command = Command::new("tmux");
        command
            .args(["-f", "/dev/null", "-S"])
            .arg(self.tool.folder.join("tmux"))
            .current_dir(&self.tool.folder)
            .env("HOME", &self.tool.folder)
            .env("LC_ALL", "C.UTF-8")
            .env_remove("TMUX")
            .env_remove("LIGHTBUS_CONFIG")
            .env_remove("NO_COLOR");
        command
    }

    fn press(&self, keys: &[&str]) {
        assert!(self.tmux().arg("send-keys").args(keys).status().unwrap().success());
    }

    /// The text on the screen.
    fn seen(&self) -> String {
        let shown = self.tmux().args(["capture-pane", "-p"]).output().unwrap();
        String::from_utf8_lossy(&shown.stdout).into_owned()
    }

    async fn shows(&self, part: &str) {
        let found = self.until(|seen| seen.contains(part)).await;
        assert!(found, "never saw {part:?}, but:\n{}", self.seen());
    }

    async fn until(&self, holds: impl Fn(&str) -> bool) -> bool {
        let patience = Patience::of(LIMIT);
        while !holds(&self.seen()) {
            if !patience.lasts().await {
                return false;
            }
        }
        true
    }

    /// Waits for the exit code, and checks that the terminal is restored.
    async fn ended(&self) -> i32 {
        let read = |name: &str| std::fs::read_to_string(self.tool.folder.join(name));
        let ended = self.until(|_| read("code").is_ok()).await;
        assert!(ended, "it does not end:\n{}", self.seen());
        assert_eq!(read("before").unwrap(), read("after").unwrap(), "the terminal is not restored");
        read("code").unwrap().trim().parse().unwrap()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = self.tmux().arg("kill-server").status();
    }
}

/// A busy bus, and the tool.
async fn place() -> Option<(Place, lightbus::Bus, Tool)> {
    let place = Place::Redis(RedisServer::start_durable()?);
    let (bus, tool) = (busy(&place).await, Tool::at(&place));
    Some((place, bus, tool))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_live_view_follows_keys_and_gives_the_terminal_back() {
    let Some((_redis, bus, tool)) = place().await else { return };
    let Some(screen) = Screen::start(tool, "LIGHTBUS top --interval 0.2", (120, 35)) else {
        return;
    };
    screen.shows("web-1").await;
    super::top::work(&bus).await;
    screen.shows("auth.check_pass").await;
    screen.shows("auth-welcome").await;
    screen.press(&["p"]);
    screen.shows("PAUSED").await;
    screen.press(&["p", "s"]);
    screen.shows("busiest first").await;
    screen.press(&["Tab", "Tab", "Enter"]);
    screen
        .shows(
            "┌ Procedures (2) ──────────────────────────────────────────────────────────────────",
        )
        .await;
    // The screen may be read while it is drawn.
    let is_alone = screen.until(|seen| !seen.contains("Listeners")).await;
    assert!(is_alone, "other tables stay: {}", screen.seen());
    screen.press(&["C-c"]);
    assert_eq!(screen.ended().await, 0);
    assert!(!screen.seen().contains("lightbus top"), "the screen is as it was");
    bus.shut_down();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_gives_the_terminal_back_too() {
    let Some((_redis, bus, tool)) = place().await else { return };
    let script = "(sh -c 'echo $$ > pid; exec LIGHTBUS top --interval 0.2')";
    let Some(screen) = Screen::start(tool, script, (80, 20)) else { return };
    screen.shows("web-1").await;
    let pid = std::fs::read_to_string(screen.tool.folder.join("pid")).unwrap();
    assert!(Command::new("kill").arg(pid.trim()).status().unwrap().success());
    assert_eq!(screen.ended().await, 0);
    bus.shut_down();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_live_view_ends_with_its_terminal() {
    let Some((_redis, bus, tool)) = place().await else { return };
    let script = "(sh -c 'echo $$ > pid; exec LIGHTBUS top --interval 0.2')";
    let Some(screen) = Screen::start(tool, script, (80, 20)) else { return };
    screen.shows("web-1").await;
    let pid = std::fs::read_to_string(screen.tool.folder.join("pid")).unwrap();
    assert!(is_running(pid.trim()), "the process of the tool is not found");
    assert!(screen.tmux().arg("kill-server").status().unwrap().success());
    lightbus_tests::eventually("the tool exits", async || !is_running(pid.trim())).await;
    bus.shut_down();
}

/// Whether there is such a process. One that has exited, and is not yet waited for, does not count.
fn is_running(pid: &str) -> bool {
    let shown = Command::new("ps").args(["-o", "stat=", "-p", pid]).output().unwrap();
    let state = String::from_utf8_lossy(&shown.stdout).trim().to_owned();
    !state.is_empty() && !state.starts_with('Z')
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_shell_completes_and_ends() {
    let Some((_redis, bus, tool)) = place().await else { return };
    let Some(screen) = Screen::start(tool, "LIGHTBUS shell", (80, 20)) else { return };
    screen.shows("lightbus>").await;
    screen.press(&["-l", "call auth.ch"]);
    screen.press(&["Tab"]);
    screen.shows("lightbus> call auth.check_password").await;
    screen.press(&["-l", " username=admin pass"]);
    screen.press(&["Tab"]);
    screen.shows("password=").await;
    screen.press(&["-l", "secret"]);
    screen.press(&["Enter"]);
    screen.shows("true").await;
    // Ctrl-C ends the command that runs, or clears the line, and not the shell.
    screen.press(&["-l", "call auth.slow"]);
    screen.press(&["Enter"]);
    screen.shows("lightbus> call auth.slow\n").await;
    screen.press(&["C-c"]);
    screen.press(&["-l", "version"]);
    screen.press(&["Enter"]);
    screen.shows(&format!("version\n{}\nlightbus>", env!("CARGO_PKG_VERSION"))).await;
    screen.press(&["C-d"]);
    assert_eq!(screen.ended().await, 0);
    bus.shut_down();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn firing_lines_shows_how_far_it_is() {
    let Some((_redis, bus, tool)) = place().await else { return };
    let script = "LIGHTBUS fire auth.user_registered --stdin";
    let Some(screen) = Screen::start(tool, script, (80, 20)) else { return };
    screen.press(&["-l", r#"{"username": "a", "age": 1}"#]);
    screen.press(&["Enter"]);
    screen.shows("1 fired, ").await;
    screen.press(&["C-d"]);
    screen.shows("fired 1, refused 0").await;
    assert_eq!(screen.ended().await, 0);
    assert!(!screen.seen().contains("1 fired, "), "it is gone at the end: {}", screen.seen());
    bus.shut_down();
}
