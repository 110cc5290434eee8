//! The tool `lightbus`, with the transport `pigeon`.

use lightbus_transport_pigeon as pigeon;

fn main() -> std::process::ExitCode {
    lightbus_cli::main(|| lightbus::registry().with(pigeon::PigeonFactory::default()))
}
