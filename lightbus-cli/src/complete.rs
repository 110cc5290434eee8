//! Shell completions and manual pages, made from the commands.

use std::path::Path;

use clap::CommandFactory;

use crate::{cli::Cli, failure::Failure};

pub(crate) fn completions(shell: clap_complete::Shell) -> Result<(), Failure> {
    // Into memory first: writing to a pipe that is closed must not panic.
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "lightbus", &mut text);
    Ok(std::io::Write::write_all(&mut std::io::stdout().lock(), &text)?)
}

pub(crate) fn man_pages(folder: &Path) -> Result<(), Failure> {
    clap_mangen::generate_to(Cli::command(), folder)
        .map_err(|error| Failure::Failed(format!("writing to {}: {error}", folder.display())))?;
    eprintln!("manual pages saved to {}", folder.display());
    Ok(())
}
