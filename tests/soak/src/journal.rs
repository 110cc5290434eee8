//! Lines in files that are whole after a SIGKILL: each is one write to a file opened for appending.

use std::{
    collections::HashMap,
    fs::{File, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
};

use crate::Result;

/// A file of lines, written by one process.
#[derive(Debug)]
pub(crate) struct Journal(File);

impl Journal {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        Ok(Self(OpenOptions::new().create(true).append(true).open(path)?))
    }

    pub(crate) fn add(&self, line: &str) -> Result<()> {
        Ok((&self.0).write_all(format!("{line}\n").as_bytes())?)
    }
}

/// What a child handled.
pub(crate) fn handled(folder: &Path, child: usize) -> PathBuf {
    folder.join(format!("handled-{child}"))
}

/// What a child begins and may not end.
pub(crate) fn begun(folder: &Path, child: usize) -> PathBuf {
    folder.join(format!("begun-{child}"))
}

/// The last health of a child.
pub(crate) fn health(folder: &Path, child: usize) -> PathBuf {
    folder.join(format!("health-{child}"))
}

/// While it is there, the dependency is away.
pub(crate) fn outage(folder: &Path) -> PathBuf {
    folder.join("outage")
}

/// How often each number stands in a journal. One that was never written is empty.
pub(crate) fn count(path: &Path) -> HashMap<u64, u64> {
    let mut counts = HashMap::new();
    for line in std::fs::read_to_string(path).unwrap_or_default().lines() {
        if let Ok(number) = line.parse::<u64>() {
            *counts.entry(number).or_default() += 1;
        }
    }
    counts
}
