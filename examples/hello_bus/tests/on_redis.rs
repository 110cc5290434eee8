//! The commands of docs/tutorial.md print what it shows.

use std::{path::Path, process::Command};

use lightbus_tests::{Program, RedisServer, config_file};

fn start(program: &str, config: Option<&Path>, arguments: &[&str]) -> Program {
    let mut command = Command::new(program);
    command.args(arguments).env_remove("LIGHTBUS_CONFIG");
    if let Some(config) = config {
        command.env("LIGHTBUS_CONFIG", config);
    }
    Program::start(&mut command)
}

#[test]
fn service_and_caller_in_one_process() {
    let ended = start(env!("CARGO_BIN_EXE_hello-bus"), None, &[]).finish();
    assert_eq!(ended, (Some(0), "secret: true\nguess: false".to_owned()));
}

#[test]
fn two_processes_and_a_listener_on_redis() {
    let Some(server) = RedisServer::start_durable() else { return };
    let config = config_file(&server);
    let start = |program, arguments| start(program, Some(&config), arguments);
    let client = |arguments| start(env!("CARGO_BIN_EXE_client"), arguments).finish();

    let mut service = start(env!("CARGO_BIN_EXE_service"), &[]);
    service.wait_for("serves   auth");
    let mut mailer = start(env!("CARGO_BIN_EXE_mailer"), &[]);
    mailer.wait_for(
        "listens  auth.user_registered as welcome · 1 at a time · 5 attempts, then dead letter",
    );

    assert_eq!(client(&[]), (Some(0), "password valid: true\nregistered".to_owned()));
    mailer.wait_for("welcome, sally <sally@example.com>");
    let refused = "password valid: true\nnot registered: nowhere is not an email address";
    assert_eq!(client(&["nowhere"]), (Some(0), refused.to_owned()));

    // An event that is fired while the mailer is down is delivered when it is back.
    mailer.signal("INT");
    assert_eq!(mailer.finish().0, Some(0));
    assert_eq!(client(&["bob@example.com"]).0, Some(0));
    let mut mailer = start(env!("CARGO_BIN_EXE_mailer"), &[]);
    mailer.wait_for("welcome, sally <bob@example.com>");
    for program in [mailer, service] {
        program.signal("INT");
        assert_eq!(program.finish().0, Some(0));
    }
}

#[test]
fn the_configuration_is_that_of_the_examples() {
    let text = |path: &str| {
        let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path));
        let lines =
            text.into_iter().flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>());
        lines.filter(|line| !line.starts_with('#')).collect::<Vec<_>>()
    };
    assert_eq!(text("lightbus.yaml"), text("../redis.yaml"));
    assert!(!text("lightbus.yaml").is_empty());
}
