//! The tool `lightbus`, with the transports that are compiled in.

use std::process::ExitCode;

fn main() -> ExitCode {
    lightbus_cli::main(lightbus::registry)
}
