//! The configuration, as its authors write it: what is read, in which order, and in which words it
//! is refused.

use std::{path::PathBuf, time::Duration};

use lightbus::{
    Bus, Error, ErrorKind,
    config::{Config, OnIncompatible, Origin, Setting, json_schema},
};
use serde_json::{Value, json};

const NONE: [(&str, &str); 0] = [];

/// Files of a test's own, which end with it.
struct Files(PathBuf);

impl Files {
    fn new(name: &str) -> Self {
        let folder =
            std::env::temp_dir().join(format!("lightbus-config-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    fn put(&self, name: &str, text: &str) -> String {
        let path = self.0.join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Reads one file, with this environment.
fn read(text: &str, environment: &[(&str, &str)]) -> lightbus::Result<Config> {
    let name: String = std::thread::current().name().unwrap_or("x").replace("::", "-");
    let files = Files::new(&name);
    let file = files.put("lightbus.yaml", text);
    Config::loader().files([file.as_str()]).environment(environment.iter().copied()).load()
}

/// What a wrong configuration is answered with, without the name of the folder.
fn refused(text: &str) -> String {
    told(&read(text, &NONE).unwrap_err())
}

fn told(error: &Error) -> String {
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
    let text = error.to_string();
    let words = text.split(' ').map(|word| match word.rsplit_once('/') {
        Some((folder, file)) if folder.contains("lightbus-config-") => file,
        _ => word,
    });
    words.collect::<Vec<_>>().join(" ")
}

/// What the transports say to a configuration.
fn refused_by_transports(text: &str) -> String {
    let config = read(text, &NONE).unwrap();
    told(&Bus::builder().config(config).check().unwrap_err())
}

fn setting(config: &Config, path: &str) -> Setting {
    let settings = config.settings(&lightbus::registry());
    let found = settings.iter().find(|setting| setting.path == path).cloned();
    found.unwrap_or_else(|| panic!("no {path} among {settings:#?}"))
}

/// The file of Python's documentation with every key that Python knows.
const EVERYTHING: &str = include_str!("fixtures/python.yaml");

#[test]
fn a_file_of_python_with_every_key_is_read_and_means_the_same() {
    let config = read(EVERYTHING, &NONE).unwrap();
    assert_eq!(config.service_name.as_deref(), Some("shop"));
    assert_eq!(config.bus.schema.ttl, Duration::from_secs(60));
    let default = &config.apis["default"];
    assert_eq!(default.rpc_timeout, Duration::from_secs(5));
    assert_eq!(default.rpc_transport.as_ref().unwrap().name(), "redis");
    let metrics = &config.apis["shop.metrics"];
    assert!(!metrics.validate.outgoing && !metrics.validate.incoming);
    assert!(metrics.rpc_transport.is_none());
    assert!(config.plugins.internal_state.enabled);
    let warnings = Bus::builder().config(config).check().unwrap();
    let texts: Vec<_> = warnings.iter().map(ToString::to_string).collect();
    for part in [
        "apis.default.cast_values: has no effect here: typed code decodes into its types",
        "apis.default.rpc_transport.redis.connection_parameters.maxsize: has no effect here: all sends",
        "apis.default.rpc_transport.redis.consumption_restart_delay: has no effect here: a lost connection",
        "apis.default.result_transport.redis.rpc_timeout: has no effect here: a caller waits for",
    ] {
        assert!(texts.iter().any(|text| text.starts_with(part)), "{part}: {texts:#?}");
    }
    assert!(texts.iter().all(|text| text.contains("(file ")), "{texts:#?}");
}

#[test]
fn the_schema_for_editors_accepts_a_file_of_python_and_knows_each_of_its_keys() {
    let schema = json_schema();
    let validator = jsonschema::draft7::new(&schema).unwrap();
    let config: Value = serde_saphyr::from_str(EVERYTHING).unwrap();
    let errors: Vec<_> = validator
        .iter_errors(&config)
        .map(|error| format!("{error} at {}", error.instance_path()))
        .collect();
    assert!(errors.is_empty(), "{errors:#?}");
    for wrong in [
        json!({"buss": {}}),
        json!({"bus": {"schema": {"ttl": 0}}}),
        json!({"bus": {"schema": {"on_incompatible": "explode"}}}),
        json!({"bus": {"log_level": "INFO"}}),
        json!({"apis": {"default": {"rpc_timout": 5}}}),
        json!({"apis": {"a": {"validate": {"incomming": true}}}}),
        json!({"apis": {"a": {"event_transport": {"redis": {"batch_sise": 1}}}}}),
        json!({"apis": {"a": {"event_transport": {"redis": {}, "memory": {}}}}}),
        json!({"apis": {"a": {"event_transport": {"rediss": {}}}}}),
        json!({"plugins": {"internal_stat": {}}}),
    ] {
        assert!(!validator.is_valid(&wrong), "{wrong}");
        assert!(
            Config::from_value(wrong.clone())
                .and_then(|config| Bus::builder().config(config).check())
                .is_err(),
            "{wrong}"
        );
    }
    let ttl = &schema["properties"]["bus"]["properties"]["schema"]["properties"]["ttl"];
    assert_eq!((&ttl["default"], &ttl["type"]), (&json!(60), &json!("number")));
    assert!(ttl["description"].as_str().unwrap().contains("renewed"), "{ttl}");
}

#[test]
fn what_is_wrong_is_said_with_its_path_its_file_and_what_is_nearest() {
    for (text, answer) in [
        (
            "apis: { shop.till: { rpc_timout: 3 } }",
            "reading the configuration: there is no key `rpc_timout` here (at apis.shop.till.rpc_timout, known rpc_timeout, procedure_timeout, event_fire_timeout, event_listener_setup_timeout, validate, strict_validation, max_message_size, on_missing, cast_values, rpc_transport, result_transport, event_transport, file lightbus.yaml). Did you mean `rpc_timeout`?",
        ),
        (
            "schema: { transport: { redis: {} } }",
            "reading the configuration: there is no key `schema` here (at schema, known service_name, process_name, bus, apis, listeners, plugins, file lightbus.yaml). It belongs elsewhere: `bus.schema`",
        ),
        (
            "rpc_timeout: 3",
            "reading the configuration: there is no key `rpc_timeout` here (at rpc_timeout, known service_name, process_name, bus, apis, listeners, plugins, file lightbus.yaml). It belongs elsewhere: `apis.default.rpc_timeout`",
        ),
        (
            "apis: { default: { rpc_timeout: 'soon' } }",
            "reading the configuration: expected a number, found a text (at apis.default.rpc_timeout, file lightbus.yaml). Is the value of `rpc_timeout` in quotes that it should not have?",
        ),
        (
            "apis: { default: { rpc_timeout: 0 } }",
            "reading the configuration: expected a number of seconds above zero (at apis.default.rpc_timeout, file lightbus.yaml)",
        ),
        (
            "bus: { schema: { ttl: [60] } }",
            "reading the configuration: expected a number, found a list (at bus.schema.ttl, file lightbus.yaml)",
        ),
        (
            "bus: { log_level: INFO }",
            "reading the configuration: `INFO` is not one of debug, info, warning, error, critical (at bus.log_level, file lightbus.yaml). Did you mean `info`?",
        ),
        (
            "bus: { schema: { on_incompatible: refuze } }",
            "reading the configuration: `refuze` is not one of ignore, warn, refuse (at bus.schema.on_incompatible, file lightbus.yaml). Did you mean `refuse`?",
        ),
        (
            "apis: { default: { validate: null } }",
            "reading the configuration: expected true, false, or a mapping of `outgoing` and `incoming` to true or false (at apis.default.validate, file lightbus.yaml)",
        ),
        (
            "apis: { default: { event_transport: { redis: {}, memory: {} } } }",
            "reading the configuration: names several transports (memory, redis): keep one (at apis.default.event_transport, file lightbus.yaml)",
        ),
        (
            "apis: { default: { event_transport: {} } }",
            "reading the configuration: names no transport: write for instance `redis: {}` (at apis.default.event_transport, file lightbus.yaml)",
        ),
        (
            "service_name: 'a-{hostnam}'",
            "reading the configuration: the name `a-{hostnam}` cannot be used: there is no placeholder `hostnam`; there are hostname, pid, random4, random8, random16, friendly (at service_name, file lightbus.yaml)",
        ),
        (
            "plugins: { internal_sate: { enabled: true } }",
            "reading the configuration: there is no key `internal_sate` here (at plugins.internal_sate, known internal_state, internal_metrics, file lightbus.yaml). Did you mean `internal_state`?",
        ),
        (
            "",
            "reading the configuration: the configuration is not a mapping (file lightbus.yaml). It begins with keys such as `apis:` or `bus:`",
        ),
    ] {
        assert_eq!(refused(text), answer, "{text}");
    }
    let unread = Config::load(["no/such/file.yaml"]).unwrap_err().to_string();
    assert!(
        unread.contains("cannot read the file") && unread.contains("no/such/file.yaml"),
        "{unread}"
    );
    let broken = refused("a: [1");
    assert!(broken.contains("not valid YAML") && broken.contains("line"), "{broken}");
}

#[test]
fn what_is_wrong_in_the_options_of_a_transport_is_said_the_same_way() {
    for (text, answer) in [
        (
            "apis: { default: { event_transport: { redis: { batch_sise: 3 } } } }",
            "there is no key `batch_sise` here (at apis.default.event_transport.redis.batch_sise, ",
        ),
        (
            "apis: { default: { event_transport: { redis: { batch_size: many } } } }",
            "reading the configuration: expected a whole number, not negative, found a text (at apis.default.event_transport.redis.batch_size, file lightbus.yaml)",
        ),
        (
            "apis: { default: { rpc_transport: { memory: { max_stream_length: 0 } } } }",
            "expected a whole number above zero, found 0 (at apis.default.rpc_transport.memory.max_stream_length, file lightbus.yaml)",
        ),
        (
            "apis: { default: { rpc_transport: { redis: { serializer: a.b.C } } } }",
            "`a.b.C` names a Python class, which has no counterpart in Rust",
        ),
        (
            "apis: { default: { rpc_transport: { debug: {} } } }",
            "Use `memory` where Python has `debug`",
        ),
        (
            "bus: { schema: { transport: { reddis: {} } } }",
            "there is no transport `reddis` (at bus.schema.transport, known ",
        ),
        (
            "apis: { default: { rpc_transport: { redis: {} }, result_transport: { memory: {} } } }",
            "calls over `redis` and results over `memory` do not work together: one of them does not leave this process (at apis.default, file lightbus.yaml)",
        ),
        (
            "apis: { default: { event_transport: { redis: { max_stream_length: -1 } } } }",
            "expected a whole number, not negative, found -1 (at apis.default.event_transport.redis",
        ),
        ("apis: { default.x: {} }", "`default` stands for all APIs in the configuration"),
    ] {
        let told = refused_by_transports(text);
        assert!(told.contains(answer), "{text}\n{told}\n{answer}");
    }
    let told = refused_by_transports(
        "apis: { default: { event_transport: { redis: { batch_sise: 3 } } } }",
    );
    assert!(told.ends_with("Did you mean `batch_size`?"), "{told}");
}

#[test]
fn files_are_laid_one_over_the_other() {
    let files = Files::new("layers");
    let shared = files.put(
        "lightbus.yaml",
        "service_name: shop\nbus: { schema: { ttl: 30 } }\napis:\n  default:\n    rpc_timeout: 9\n    event_transport: { redis: { url: 'redis://a/0', batch_size: 7 } }\n    rpc_transport: { redis: { url: 'redis://a/0' } }\n    result_transport: { redis: { url: 'redis://a/0' } }\n",
    );
    let rust = files.put(
        "rust.json",
        r#"{"bus": {"schema": {"on_incompatible": "refuse"}}, "apis": {"default": {"event_transport": {"memory": {}}, "rpc_transport": {"redis": {"batch_size": 3}}}}}"#,
    );
    let both = format!("{shared},{rust}");
    let by_variable =
        Config::loader().environment([("LIGHTBUS_CONFIG", both.as_str())]).load().unwrap();
    let by_name =
        Config::loader().files([shared.as_str(), rust.as_str()]).environment(NONE).load().unwrap();
    for config in [by_variable, by_name] {
        assert_eq!(config.bus.schema.on_incompatible, OnIncompatible::Refuse);
        assert_eq!(config.apis["default"].event_transport.as_ref().unwrap().name(), "memory");
        for (path, value, origin) in [
            ("bus.schema.ttl", json!(30), &shared),
            ("bus.schema.on_incompatible", json!("refuse"), &rust),
            ("apis.default.rpc_timeout", json!(9), &shared),
            ("apis.default.rpc_transport.redis.url", json!("redis://a/0"), &shared),
            ("apis.default.rpc_transport.redis.batch_size", json!(3), &rust),
        ] {
            let setting = setting(&config, path);
            assert_eq!((setting.value, setting.origin), (value, Origin::File(origin.clone())));
        }
        assert!(
            setting(&config, "apis.default.event_transport.memory.max_stream_length").origin
                == Origin::Default
        );
        let settings = config.settings(&lightbus::registry());
        assert!(
            settings.iter().all(|s| !s.path.contains("event_transport.redis")),
            "{settings:#?}"
        );
    }
    let wrong = files.put("wrong.yaml", "apis: { default: { rpc_timeout: x } }");
    let error = Config::load([shared.as_str(), wrong.as_str()]).unwrap_err();
    assert!(told(&error).contains("file wrong.yaml"), "{error}");
}

#[test]
fn variables_set_single_keys_over_the_files() {
    let config = read(
        "apis: { shop.till: { rpc_timeout: 1 }, default: { event_transport: { memory: {} } } }",
        &[
            ("LIGHTBUS__BUS__SCHEMA__TTL", "7.5"),
            ("LIGHTBUS__APIS__SHOP_TILL__RPC_TIMEOUT", "2"),
            ("LIGHTBUS__APIS__DEFAULT__EVENT_TRANSPORT__REDIS__URL", "redis://e/0"),
            ("LIGHTBUS__APIS__DEFAULT__EVENT_TRANSPORT__REDIS__BATCH_SIZE", "5"),
            ("LIGHTBUS__APIS__AUTH__VALIDATE", "{outgoing: false}"),
            ("LIGHTBUS__PROCESS_NAME", "42"),
            ("LIGHTBUS__APIS__a.b__STRICT_VALIDATION", "true"),
            ("LIGHTBUS_MODULE", "bus"),
        ],
    )
    .unwrap();
    assert_eq!(config.bus.schema.ttl, Duration::from_millis(7500));
    assert_eq!(config.apis["shop.till"].rpc_timeout, Duration::from_secs(2));
    assert!(!config.apis["auth"].validate.outgoing && config.apis["auth"].validate.incoming);
    assert!(config.apis["a.b"].strict_validation);
    assert_eq!(config.process_name.as_deref(), Some("42"), "a name is a text");
    assert_eq!(config.apis["default"].event_transport.as_ref().unwrap().name(), "redis");
    let ttl = setting(&config, "bus.schema.ttl");
    assert_eq!(ttl.origin, Origin::Environment("LIGHTBUS__BUS__SCHEMA__TTL".to_owned()));
    assert_eq!(setting(&config, "apis.default.event_transport.redis.batch_size").value, json!(5));
}

#[test]
fn variables_that_set_no_key_are_refused() {
    for (name, value, answer) in [
        (
            "LIGHTBUS__BUS__SCHEMA__TLL",
            "60",
            "reading the configuration: `bus.schema` has no key `tll` (known human_readable, on_incompatible, transport, ttl, variable LIGHTBUS__BUS__SCHEMA__TLL). Did you mean `TTL`?",
        ),
        (
            "LIGHTBUS__BUS__SCHEMA__TTL",
            "a while",
            "reading the configuration: expected a number, found a text (at bus.schema.ttl, variable LIGHTBUS__BUS__SCHEMA__TTL)",
        ),
        (
            "LIGHTBUS__BUS__SCHEMA__TTL__X",
            "1",
            "reading the configuration: `bus.schema.ttl` holds a single value, there is no key `x` in it (variable LIGHTBUS__BUS__SCHEMA__TTL__X)",
        ),
        (
            "LIGHTBUS__APIS__SHOP_TILL__RPC_TIMEOUT",
            "1",
            "the configuration has no API that `SHOP_TILL` could mean",
        ),
        ("LIGHTBUS__", "1", "a part of the variable's name is empty"),
    ] {
        let error = read("bus: {}", &[(name, value)]).unwrap_err();
        assert!(told(&error).contains(answer), "{error}\n{answer}");
    }
    let two = read("apis: { a.b: {}, a_b: {} }", &[("LIGHTBUS__APIS__A_B__RPC_TIMEOUT", "1")]);
    let two = two.unwrap_err().to_string();
    assert!(two.contains("`A_B` may mean the API `a.b` or `a_b`"), "{two}");
}

#[test]
fn the_file_beats_the_environment_for_names_as_in_python() {
    let names = [("LIGHTBUS_SERVICE_NAME", "env"), ("LIGHTBUS_PROCESS_NAME", "p1")];
    let config = read("service_name: file", &names).unwrap();
    assert_eq!(config.service_name.as_deref(), Some("file"));
    assert_eq!(config.process_name.as_deref(), Some("p1"));
    let process = setting(&config, "process_name");
    assert_eq!(process.origin, Origin::Environment("LIGHTBUS_PROCESS_NAME".to_owned()));
    let config = read("service_name: file", &[("LIGHTBUS__SERVICE_NAME", "over")]).unwrap();
    assert_eq!(config.service_name.as_deref(), Some("over"), "what sets a key beats the file");
    let config = read("bus: {}", &NONE).unwrap();
    assert_eq!(
        setting(&config, "service_name").to_string(),
        "service_name = \"{friendly}\"   # default"
    );
}

const WITH_SECRETS: &str = "
apis:
  default:
    rpc_timeout: ${WAIT:-5}
    event_transport:
      redis:
        url: 'redis://:${REDIS_PASSWORD}@${HOST:-localhost}:6379/0'
        batch_size: ${BATCH}
        connection_parameters: { password: '${REDIS_PASSWORD}' }
        consumer_name: $${literal}
    rpc_transport:
      redis: { url: 'redis://user:in-the-file@host/0', connection_parameters: { password: 12hunter34 } }
";

#[test]
fn variables_stand_in_values_and_secrets_are_not_shown() {
    let environment = [("REDIS_PASSWORD", "s3cr3t-word"), ("BATCH", "12")];
    let config = read(WITH_SECRETS, &environment).unwrap();
    assert_eq!(config.apis["default"].rpc_timeout, Duration::from_secs(5));
    Bus::builder().config(config.clone()).check().unwrap();
    let event =
        |key: &str| setting(&config, &format!("apis.default.event_transport.redis.{key}")).value;
    assert_eq!(event("url"), json!("redis://:${REDIS_PASSWORD}@${HOST:-localhost}:6379/0"));
    assert_eq!(event("connection_parameters.password"), json!("${REDIS_PASSWORD}"));
    assert_eq!(event("consumer_name"), json!("$${literal}"));
    let rpc =
        |key: &str| setting(&config, &format!("apis.default.rpc_transport.redis.{key}")).value;
    assert_eq!(rpc("url"), json!("redis://user:<hidden>@host/0"));
    assert_eq!(rpc("connection_parameters.password"), json!("<hidden>"));
    for secret in ["s3cr3t-word", "in-the-file", "hunter"] {
        let all = format!("{:?} {:?}", config, config.settings(&lightbus::registry()));
        assert!(!all.contains(secret), "{secret} in {all}");
    }
}

#[test]
fn no_error_repeats_a_secret() {
    let environment = [("PW", "s3cr3t-word"), ("NUMBER", "12345678")];
    for (text, answer) in [
        (
            "apis: { default: { event_transport: { redis: { batch_size: '${PW}' } } } }",
            "found a text",
        ),
        (
            "apis: { default: { event_transport: { redis: { url: 's3cr3t-word://${PW}' } } } }",
            "url",
        ),
        (
            "apis: { default: { event_transport: { redis: { url: 'redis://:s3cr3t-word@h:port' } } } }",
            "url",
        ),
        (
            "apis: { default: { event_transport: { redis: { stream_use: '${PW}' } } } }",
            "`${PW}` is not one of per_api, per_event",
        ),
        (
            "apis: { default: { event_transport: { redis: { connection_parameters: { password: 12345678 } } } } }",
            "expected a text, found a whole number",
        ),
        (
            "apis: { default: { rpc_transport: { redis: { serializer: '${PW}' } } } }",
            "`${PW}` names a Python class",
        ),
        ("bus: { log_level: '${PW}' }", "`${PW}` is not one of"),
        ("service_name: '${PW}-{x}'", "there is no placeholder `x`"),
    ] {
        let error = read(text, &environment)
            .and_then(|config| Bus::builder().config(config).check())
            .unwrap_err();
        let told = format!("{error:?} {error}");
        assert!(!told.contains("s3cr3t") && !told.contains("12345678"), "{told}");
        assert!(told.contains(answer), "{told}\n{answer}");
    }
    let missing = read("service_name: '${NOT_SET}'", &NONE).unwrap_err();
    assert_eq!(
        told(&missing),
        "reading the configuration: the environment variable `NOT_SET` is not set (at service_name, file lightbus.yaml). Set it, or write ${VARIABLE:-default}"
    );
}

#[test]
fn a_variable_of_a_file_below_is_not_needed_if_another_file_replaces_it() {
    let files = Files::new("replaced");
    let below = files.put("a.yaml", "service_name: ${NOT_SET}");
    let above = files.put("b.yaml", "service_name: shop");
    let config =
        Config::loader().files([below.as_str(), above.as_str()]).environment(NONE).load().unwrap();
    assert_eq!(config.service_name.as_deref(), Some("shop"));
}

#[test]
fn what_is_left_out_is_carried_by_the_transport_that_is_named_and_by_its_options_that_fit() {
    let config =
        read("apis: { default: { event_transport: { memory: { max_stream_length: 7 } } } }", &NONE)
            .unwrap();
    let calls = "apis.default.rpc_transport.memory";
    assert_eq!(setting(&config, &format!("{calls}.max_stream_length")).value, json!(7));
    // A transport whose kinds have options of their own gets those that it knows.
    let text = "apis: { default: { event_transport: { redis: { url: 'redis://e/0', batch_size: 7, stream_use: per_event } } } }";
    let config = read(text, &NONE).unwrap();
    Bus::builder().config(config).check().unwrap();
}

#[test]
fn the_files_in_the_guide_are_right() {
    for guide in [include_str!("../../docs/configuration.md"), include_str!("../../docs/schema.md")]
    {
        for block in guide.split("```yaml\n").skip(1) {
            let text = block.split("```").next().unwrap();
            let config = read(text, &NONE).unwrap();
            let warnings = Bus::builder().config(config).check().unwrap();
            assert!(warnings.is_empty(), "{text}\n{warnings:?}");
        }
    }
}

#[test]
fn the_guide_names_every_key() {
    let guide = include_str!("../../docs/configuration.md");
    let schema = json_schema();
    for place in [
        "",
        "/properties/bus",
        "/properties/bus/properties/schema",
        "/properties/apis/additionalProperties",
        "/properties/plugins",
        "/properties/plugins/properties/internal_state",
        "/properties/plugins/properties/internal_metrics",
    ] {
        let keys = schema.pointer(&format!("{place}/properties")).unwrap().as_object().unwrap();
        for (key, described) in keys {
            assert!(
                guide.contains(&format!("{key}`")) || guide.contains(&format!("`{key}.")),
                "{place} {key}"
            );
            let said = described.get("description").and_then(Value::as_str);
            assert!(
                said.is_some_and(|said| !said.is_empty()),
                "an editor has nothing to show for {key}"
            );
        }
    }
}

/// A transport of somebody else, which does not describe its options.
#[derive(Debug)]
struct Pigeons;

impl lightbus::transport::TransportFactory for Pigeons {
    fn name(&self) -> &'static str {
        "pigeon"
    }
}

#[test]
fn a_transport_that_does_not_describe_its_options_may_have_any() {
    let registry = lightbus::registry().with(Pigeons);
    let config = Config::loader()
        .files([])
        .environment([
            ("LIGHTBUS__APIS__DEFAULT__EVENT_TRANSPORT__PIGEON__LOFT", "north"),
            ("LIGHTBUS__APIS__DEFAULT__EVENT_TRANSPORT__PIGEON__WINGS", "2"),
            ("LIGHTBUS__APIS__DEFAULT__EVENT_TRANSPORT__PIGEON__API_TOKEN", "s3cr3t-word"),
        ])
        .registry(registry.clone())
        .load()
        .unwrap();
    let settings = config.settings(&registry);
    let shown = |key: &str| {
        let path = format!("apis.default.event_transport.pigeon.{key}");
        settings.iter().find(|setting| setting.path == path).unwrap().value.clone()
    };
    assert_eq!((shown("loft"), shown("wings")), (json!("north"), json!(2)));
    assert_eq!(shown("api_token"), json!("<hidden>"), "by its name");
    let error = Bus::builder().config(config).registry(registry).check().unwrap_err();
    assert!(
        error.to_string().contains("the transport `pigeon` cannot be a event_transport"),
        "{error}"
    );
}

#[test]
fn yaml_is_read_as_python_reads_it() {
    let config = read(
        "apis: { default: { strict_validation: yes, cast_values: off, rpc_timeout: 2.0 } }",
        &NONE,
    )
    .unwrap();
    let default = &config.apis["default"];
    assert!(default.strict_validation && !default.cast_values);
    assert_eq!(default.rpc_timeout, Duration::from_secs(2));
    let text = "apis: { a: &a { rpc_timeout: 7 }, b: *a, c: { <<: *a, validate: false } }";
    let config = read(text, &NONE).unwrap();
    assert_eq!(config.apis["c"].rpc_timeout, Duration::from_secs(7));
    let twice = refused("bus: {}\nbus: {}");
    assert!(twice.contains("duplicate") && twice.contains("line 2"), "{twice}");
}

#[test]
fn empty_sections_count_as_sections_without_keys() {
    let config =
        read("bus:\napis:\n  default:\n  auth:\nplugins:\nservice_name:\n", &NONE).unwrap();
    assert_eq!(config.bus.schema.ttl, Duration::from_secs(60));
    assert!(config.apis.contains_key("auth"), "an entry of its own, with the usual settings");
    Bus::builder().config(config).check().unwrap();
}

#[test]
fn values_that_contradict_each_other_are_warned_about() {
    let config = read(
        "apis: { a: { rpc_timeout: 9, validate: false, strict_validation: true, rpc_transport: { redis: { rpc_timeout: 5 } }, result_transport: { redis: {} } } }",
        &NONE,
    )
    .unwrap();
    let warnings = config.warnings(&lightbus::registry());
    let texts: Vec<_> = warnings.iter().map(ToString::to_string).collect();
    assert!(
        texts[0]
            .starts_with("apis.a.strict_validation: has no effect while `validate` is off (file "),
        "{texts:#?}"
    );
    assert!(texts[1].starts_with("apis.a.rpc_transport.redis.rpc_timeout: is 5 s and shorter than the 9 s of `apis.a.rpc_timeout`"), "{texts:#?}");
    assert_eq!(texts.len(), 2);
}

#[test]
fn sections_of_plugins_that_only_python_has_are_passed_over_with_a_warning() {
    let config = read(
        "plugins: { sentry: { enabled: true, dsn: 'https://k@s/1' }, internal_state: { enabled: true } }",
        &NONE,
    )
    .unwrap();
    assert!(config.plugins.internal_state.enabled);
    let warnings = config.warnings(&lightbus::registry());
    let texts: Vec<_> = warnings.iter().map(ToString::to_string).collect();
    assert_eq!(texts.len(), 1, "{texts:#?}");
    assert!(
        texts[0].starts_with("plugins.sentry: is passed over: no plugin of this name"),
        "{texts:#?}"
    );
}

/// Its end would be taken for the host, which is resolved and logged.
#[test]
fn a_password_of_any_characters_reaches_the_broker_and_no_error() {
    let url = "redis://:${PW}@127.0.0.1:1/0";
    let yaml = format!("bus: {{ schema: {{ transport: {{ redis: {{ url: '{url}' }} }} }} }}");
    let config = read(&yaml, &[("PW", "ab@hunter2#x")]).unwrap();
    let said = format!(
        "{config:?} {:?} {}",
        config.settings(&lightbus::registry()),
        Bus::builder().config(config.clone()).check().is_ok()
    );
    assert!(said.ends_with("true"), "{said}");
    for part in ["hunter2", "ab@", "ab%40"] {
        assert!(!said.contains(part), "{part} in {said}");
    }
    let error = read(&yaml.replace("${PW}", "ab@hunter2#x"), &NONE).unwrap_err().to_string();
    assert!(
        error.contains("behind its host") && error.contains("bus.schema.transport.redis.url"),
        "{error}"
    );
    assert!(!error.contains("hunter2"), "{error}");
}

mod over_http {
    use std::{
        io::{Read, Write},
        net::TcpListener,
    };

    use super::*;

    /// A server that gives one answer, and its address.
    fn server(head: &'static str, body: String) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 4096]);
            let length = body.len();
            let answer = format!(
                "HTTP/1.1 {head}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
            );
            let _ = stream.write_all(answer.as_bytes());
        });
        address
    }

    fn fetched(address: &str) -> lightbus::Result<Config> {
        Config::loader().files([address]).environment(NONE).load()
    }

    #[test]
    fn yaml_and_json_are_told_apart_by_the_type_or_the_name() {
        let yaml = format!(
            "{}/lightbus.yaml?x=.json",
            server("200 OK", "bus: { schema: { ttl: 7 } }".to_owned())
        );
        let config = fetched(&yaml).unwrap();
        assert_eq!(config.bus.schema.ttl, Duration::from_secs(7));
        assert_eq!(setting(&config, "bus.schema.ttl").origin, Origin::File(yaml));
        // Not JSON, although YAML would take it: so it was read as what it was said to be.
        for (head, path) in [
            ("200 OK\r\nContent-Type: application/json", "/lightbus"),
            ("200 OK", "/lightbus.json"),
        ] {
            let address = server(head, "bus: {}".to_owned()) + path;
            let error = fetched(&address).unwrap_err().to_string();
            assert!(error.contains("the file is not JSON"), "{error}");
        }
    }

    #[test]
    fn what_the_server_does_wrong_is_said_without_the_password() {
        for (head, body, answer) in [
            ("404 Not Found", String::new(), "the server answered with status 404"),
            ("200 OK", "x".repeat(2_000_000), "the file is larger than 1048576 bytes"),
        ] {
            let address = server(head, body).replace("http://", "http://user:s3cret@");
            let error = fetched(&address).unwrap_err().to_string();
            assert!(error.contains(answer) && error.contains("user:<hidden>@127.0.0.1"), "{error}");
            assert!(!error.contains("s3cret"), "{error}");
        }
        let error = fetched("http://user:s3cret@127.0.0.1:1/").unwrap_err().to_string();
        assert!(error.contains("it cannot be fetched") && !error.contains("s3cret"), "{error}");
    }
}

#[test]
fn nothing_configured_is_memory_and_python_defaults_come_with_a_file() {
    let nothing = Config::loader().environment(NONE).load().unwrap();
    assert_eq!(
        setting(&nothing, "apis.default.rpc_transport.memory.max_queue_length").value,
        json!(10_000)
    );
    let file = read("bus: {}", &NONE).unwrap();
    let url = setting(&file, "apis.default.rpc_transport.redis.url");
    assert_eq!((url.value, url.origin), (json!("redis://127.0.0.1:6379/0"), Origin::Default));
}
