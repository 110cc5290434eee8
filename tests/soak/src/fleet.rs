//! The children: started, killed, started again; their memory and health watched.

use std::{
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use crate::{Options, Result, journal};

/// How soon a child that has ended is started again.
const RESTART_AFTER: Duration = Duration::from_secs(1);

/// One process of the fleet, which may have ended.
#[derive(Debug)]
struct Member {
    child: Option<Child>,
    ended: Instant,
    starts: u32,
}

/// All children.
#[derive(Debug)]
pub(crate) struct Fleet<'a> {
    options: &'a Options,
    members: Vec<Member>,
}

impl<'a> Fleet<'a> {
    pub(crate) fn start(options: &'a Options, members: usize) -> Result<Self> {
        let ended = Instant::now();
        let member = || Member { child: None, ended, starts: 0 };
        let mut fleet = Self { options, members: (0..members).map(|_| member()).collect() };
        for number in 0..members {
            fleet.launch(number)?;
        }
        Ok(fleet)
    }

    pub(crate) fn len(&self) -> usize {
        self.members.len()
    }

    pub(crate) fn starts(&self) -> u32 {
        self.members.iter().map(|member| member.starts).sum()
    }

    fn launch(&mut self, number: usize) -> Result<()> {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.options.folder.join(format!("log-{number}")))?;
        let child = Command::new(std::env::current_exe()?)
            .arg("--config")
            .arg(&self.options.config)
            .arg("--folder")
            .arg(&self.options.folder)
            .args(["--child", &number.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()?;
        let member = &mut self.members[number];
        member.child = Some(child);
        member.starts += 1;
        Ok(())
    }

    /// Starts again what has ended, after a while, as a supervisor does.
    pub(crate) fn supervise(&mut self) -> Result<()> {
        for number in 0..self.members.len() {
            let member = &mut self.members[number];
            let Some(child) = &mut member.child else {
                if member.ended.elapsed() >= RESTART_AFTER {
                    self.launch(number)?;
                }
                continue;
            };
            if child.try_wait()?.is_some() {
                member.child = None;
                member.ended = Instant::now();
            }
        }
        Ok(())
    }

    /// Ends one as SIGKILL does: nothing is said to anybody.
    pub(crate) fn kill(&mut self, number: usize) -> Result<()> {
        if let Some(child) = &mut self.members[number].child {
            child.kill()?;
        }
        Ok(())
    }

    /// The resident memory of each, in KiB, where it runs.
    pub(crate) fn memory(&self) -> Vec<u64> {
        self.running().filter_map(|(_, child)| resident(child.id())).collect()
    }

    /// How many of those that run say that they are healthy, and how many say they are not.
    pub(crate) fn health(&self, folder: &Path) -> (usize, usize) {
        let (mut green, mut red) = (0, 0);
        for (number, _) in self.running() {
            let Ok(text) = std::fs::read(journal::health(folder, number)) else { continue };
            let Ok(health) = serde_json::from_slice::<serde_json::Value>(&text) else { continue };
            match health["healthy"].as_bool() {
                Some(true) => green += 1,
                Some(false) => red += 1,
                None => {}
            }
        }
        (green, red)
    }

    fn running(&self) -> impl Iterator<Item = (usize, &Child)> {
        let members = self.members.iter().enumerate();
        members.filter_map(|(number, member)| Some((number, member.child.as_ref()?)))
    }
}

impl Drop for Fleet<'_> {
    fn drop(&mut self) {
        for member in &mut self.members {
            if let Some(child) = &mut member.child {
                // It may have ended by itself.
                let _ = child.kill();
                let _ = child.wait();
            }
        }
    }
}

fn resident(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse().ok()
}
