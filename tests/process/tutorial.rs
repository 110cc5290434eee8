//! The tutorial's four programs on Redis.

use lightbus_tests::{Program, RedisServer, config_file, free_port};

#[test]
fn the_four_programs_of_the_tutorial_work_together() {
    let Some(server) = RedisServer::start_durable() else { return };
    let config = config_file(&server);
    let run = |name: &str, arguments: &[&str]| {
        Program::start(Program::example(name, Some(&config)).args(arguments)).finish()
    };

    let mut listener = Program::start(&mut Program::example("another_service", Some(&config)));
    listener.wait_for("listens  auth.user_registered");
    let mut service = Program::start(&mut Program::example("auth_service", Some(&config)));
    service.wait_for("serves   auth");

    assert_eq!(run("check_password", &[]), (Some(0), "Password valid!".to_owned()));
    let (code, printed) = run("check_password", &["admin", "guess"]);
    assert_eq!((code, printed.as_str()), (Some(0), "Oops, bad username or password"));

    let (code, printed) = run("manually_register_user", &["zoe", "zoe@example.com"]);
    assert_eq!(code, Some(0), "{printed}");
    listener.wait_for("zoe <zoe@example.com>");

    // What is fired while the listener is away is waiting when it comes back.
    listener.signal("TERM");
    assert_eq!(listener.finish().0, Some(0));
    service.signal("INT");
    assert_eq!(service.finish().0, Some(0));
    run("manually_register_user", &["max", "max@example.com"]);
    let mut listener = Program::start(&mut Program::example("another_service", Some(&config)));
    listener.wait_for("max <max@example.com>");
    listener.signal("INT");
    let (code, printed) = listener.finish();
    assert_eq!(code, Some(0), "{printed}");
    assert!(!printed.contains("zoe"), "what was acknowledged came again: {printed}");
}

#[test]
fn without_a_configuration_they_say_how_to_choose_a_transport() {
    for name in ["auth_service", "check_password", "another_service", "manually_register_user"] {
        let (code, printed) = Program::start(&mut Program::example(name, None)).finish();
        assert_eq!(code, Some(1), "{name}: {printed}");
        for part in
            ["memory", "cannot reach another process", "LIGHTBUS_CONFIG=examples/redis.yaml"]
        {
            assert!(printed.contains(part), "{name}: {printed}");
        }
    }
}

#[test]
fn no_redis_at_the_address_is_said_at_once() {
    let folder = std::env::temp_dir().join(format!("lightbus-nobody-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let config = folder.join("lightbus.yaml");
    let port = free_port();
    std::fs::write(&config, lightbus_tests::redis_yaml(&format!("redis://127.0.0.1:{port}/0"), ""))
        .unwrap();
    let (code, printed) =
        Program::start(&mut Program::example("auth_service", Some(&config))).finish();
    std::fs::remove_dir_all(&folder).unwrap();
    assert_eq!(code, Some(1), "{printed}");
    for part in ["connecting to the bus", &format!("127.0.0.1:{port}"), "redis"] {
        assert!(printed.contains(part), "{part} is missing in {printed}");
    }
}

#[test]
fn a_broken_configuration_names_the_key_and_the_nearest() {
    let folder = std::env::temp_dir().join(format!("lightbus-broken-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let config = folder.join("lightbus.yaml");
    let cases = [
        (
            "apis:\n  default:\n    rpc_timout: 3\n",
            vec!["apis.default", "rpc_timout", "Did you mean `rpc_timeout`?"],
        ),
        ("apis:\n  default:\n    rpc_timeout: soon\n", vec!["apis.default.rpc_timeout"]),
        (
            "apis:\n  default:\n    rpc_transport: { rediss: {} }\n",
            vec!["apis.default.rpc_transport", "rediss", "Did you mean `redis`?"],
        ),
        (
            "apis:\n  default:\n    event_transport: { redis: { batch_sise: 3 } }\n",
            vec!["apis.default.event_transport.redis", "batch_sise", "`batch_size`"],
        ),
        (
            "apis:\n  default:\n    rpc_transport: { redis: {}, memory: {} }\n",
            vec!["several transports"],
        ),
        ("apis: [\n", vec!["not valid YAML", "lightbus.yaml"]),
        ("- a\n", vec!["not a mapping"]),
    ];
    for (text, parts) in cases {
        std::fs::write(&config, text).unwrap();
        let (code, printed) =
            Program::start(&mut Program::example("auth_service", Some(&config))).finish();
        assert_eq!(code, Some(1), "{printed}");
        for part in parts {
            assert!(printed.contains(part), "{part} is missing in {printed}");
        }
    }
    let missing = folder.join("nowhere.yaml");
    let (code, printed) =
        Program::start(&mut Program::example("auth_service", Some(&missing))).finish();
    std::fs::remove_dir_all(&folder).unwrap();
    assert_eq!(code, Some(1));
    assert!(
        printed.contains("nowhere.yaml") && printed.contains("cannot read the file"),
        "{printed}"
    );
}
