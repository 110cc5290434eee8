//! The programs of `tests/python/`, as child processes.

use std::{path::PathBuf, process::Command, sync::OnceLock};

use serde_json::Value;

use crate::{Program, root};

fn folder() -> PathBuf {
    root().join("tests/python")
}

/// The Python that has Lightbus, or a loud word that there is none; with `CI=true` a failure.
pub fn python() -> Option<&'static str> {
    static PYTHON: OnceLock<Option<String>> = OnceLock::new();
    let found = PYTHON.get_or_init(|| {
        if let Ok(python) = std::env::var("LIGHTBUS_TEST_PYTHON") {
            return Some(python);
        }
        let output = Command::new(folder().join("setup.sh")).output().ok()?;
        let path = String::from_utf8(output.stdout).ok()?;
        output.status.success().then(|| path.trim().to_owned())
    });
    if found.is_none() {
        lightbus_test_brokers::skipped("no Python with Lightbus: run tests/python/setup.sh");
    }
    found.as_deref()
}

/// A program of `tests/python/` on this Redis.
pub fn start(python: &str, script: &str, url: &str, flags: &[&str]) -> Program {
    let mut command = Command::new(python);
    command
        .arg(folder().join(script))
        .args(["--redis-url", url])
        .args(flags)
        .env("PYTHONDONTWRITEBYTECODE", "1");
    Program::start(&mut command)
}

/// Runs a program to its end; returns the exit code and the JSON lines that it printed.
pub fn run(python: &str, script: &str, url: &str, flags: &[&str]) -> (Option<i32>, Vec<Value>) {
    let (code, printed) = start(python, script, url, flags).finish();
    (code, json_lines(&printed))
}

/// The JSON objects among the lines.
pub fn json_lines(printed: &str) -> Vec<Value> {
    printed
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .filter(Value::is_object)
        .collect()
}
