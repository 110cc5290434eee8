//! Shell completions and manual pages, generated from the commands.

use std::{ffi::OsStr, path::Path};

use clap::CommandFactory;

use crate::{cli::Cli, failure::Failure};

pub(crate) fn completions(shell: clap_complete::Shell) -> Result<(), Failure> {
    // Into memory first: `generate` panics when it writes to a closed pipe.
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), program(), &mut text);
    Ok(std::io::Write::write_all(&mut std::io::stdout().lock(), &text)?)
}

pub(crate) fn man_pages(folder: &Path) -> Result<(), Failure> {
    clap_mangen::generate_to(Cli::command().name(program()), folder)
        .map_err(|error| Failure::Failed(format!("writing to {}: {error}", folder.display())))?;
    eprintln!("saved manual pages to {}", folder.display());
    Ok(())
}

/// The name of the program as it was started: a tool with other transports may have another one.
fn program() -> String {
    let path = std::env::args_os().next().unwrap_or_default();
    let name = Path::new(&path).file_stem().and_then(OsStr::to_str);
    name.unwrap_or("lightbus").to_owned()
}
