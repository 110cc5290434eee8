//! What a new version of an API breaks, for whom, and in which words; and what a process does about it
//! when it starts.

use lightbus::{
    ErrorKind, JsonSchema,
    config::OnIncompatible,
    schema::{Change, ChangeKind, Item, Party, Schema},
};
use lightbus_tests::{Place, on_every_transport};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::log::log;

/// An API `a` with the procedure `p`, or the event `e`.
fn procedure(parameters: Value, response: Value) -> Value {
    json!({ "rpcs": { "p": { "parameters": parameters, "response": response } }, "events": {} })
}

fn event(parameters: Value) -> Value {
    json!({ "rpcs": {}, "events": { "e": { "parameters": parameters } } })
}

/// Parameters as contracts have them: those with a default are not required.
fn takes(properties: Value) -> Value {
    let all = properties.as_object().unwrap();
    let required: Vec<_> = all
        .iter()
        .filter(|(_, schema)| schema.get("default").is_none())
        .map(|(name, _)| name)
        .collect();
    json!({ "type": "object", "properties": properties, "required": required, "additionalProperties": false })
}

fn compared(old: Value, new: Value) -> Vec<Change> {
    Schema::compare(&Schema::new("a", old).unwrap(), &Schema::new("a", new).unwrap())
}

fn texts(changes: &[Change]) -> Vec<String> {
    changes.iter().map(ToString::to_string).collect()
}

/// The one change of an argument's type, there and back: whom it breaks.
fn argument(old: Value, new: Value) -> Vec<String> {
    let version = |schema: Value| procedure(takes(json!({ "x": schema })), json!({}));
    texts(&compared(version(old), version(new)))
        .into_iter()
        .map(|text| text.replace("a.p: the argument `x`", "").replace(" of the older version", ""))
        .collect()
}

#[test]
fn members_come_and_go() {
    let nothing = json!({ "rpcs": {}, "events": {} });
    for (old, new, text) in [
        (
            procedure(takes(json!({})), json!({})),
            nothing.clone(),
            "a.p: the procedure was removed (breaks callers of the older version)",
        ),
        (
            nothing.clone(),
            procedure(takes(json!({})), json!({})),
            "a.p: the procedure is new (breaks servers of the older version)",
        ),
        (
            event(takes(json!({}))),
            nothing.clone(),
            "a.e: the event was removed (breaks listeners of the older version)",
        ),
        (nothing.clone(), event(takes(json!({}))), "a.e: the event is new (compatible)"),
    ] {
        assert_eq!(texts(&compared(old, new)), [text]);
    }
    let gone = compared(event(takes(json!({}))), nothing);
    assert_eq!(gone[0].item, Item::Event("e".to_owned()));
    assert_eq!(
        (&gone[0].kind, &gone[0].breaks[..]),
        (&ChangeKind::Removed, &[Party::Listeners][..])
    );
    assert!(gone[0].is_breaking() && gone[0].breaks_users());
}

#[test]
fn arguments_come_and_go() {
    let none = || takes(json!({}));
    let required = || takes(json!({ "x": { "type": "string" } }));
    let optional = || takes(json!({ "x": { "type": "string", "default": "" } }));
    let text = |old, new| {
        let calls = texts(&compared(procedure(old, json!({})), procedure(new, json!({}))));
        assert_eq!(calls.len(), 1, "{calls:?}");
        calls[0].trim_start_matches("a.p: the argument `x` ").replace(" of the older version", "")
    };
    assert_eq!(text(none(), required()), "is new and required (breaks callers and servers)");
    assert_eq!(text(none(), optional()), "is new and optional (breaks servers)");
    assert_eq!(text(required(), none()), "was removed (breaks callers and servers)");
    assert_eq!(text(optional(), none()), "was removed (breaks callers)");
    assert_eq!(text(optional(), required()), "was optional and is now required (breaks callers)");
    assert_eq!(text(required(), optional()), "was required and is now optional (breaks servers)");
    let text = |old, new| {
        let fires = texts(&compared(event(old), event(new)));
        fires[0].trim_start_matches("a.e: the argument `x` ").replace(" of the older version", "")
    };
    assert_eq!(text(none(), required()), "is new and required (breaks listeners and firers)");
    assert_eq!(text(none(), optional()), "is new and optional (breaks listeners)");
    assert_eq!(text(required(), none()), "was removed (breaks listeners and firers)");
    assert_eq!(text(optional(), required()), "was optional and is now required (breaks firers)");
    assert_eq!(text(required(), optional()), "was required and is now optional (breaks listeners)");
}

#[test]
fn who_takes_any_argument_is_not_broken_by_a_new_one() {
    let open = |properties: Value| json!({ "type": "object", "properties": properties });
    let changes = compared(event(open(json!({}))), event(open(json!({ "x": {} }))));
    assert_eq!(texts(&changes), ["a.e: the argument `x` is new and optional (compatible)"]);
}

#[test]
fn types_are_narrowed_and_widened() {
    for (old, new, narrowed, widened) in [
        (
            json!({"type": "number"}),
            json!({"type": "integer"}),
            ": was any number, is a whole number",
            ": was a whole number, is any number",
        ),
        (
            json!({"type": ["string", "null"]}),
            json!({"type": "string"}),
            ": no longer null",
            ": now also null",
        ),
        (
            json!({"anyOf": [{"type": "string"}, {"type": "null"}]}),
            json!({"type": "string"}),
            ": no longer null",
            ": now also null",
        ),
        (
            json!({}),
            json!({"type": "string"}),
            ": was anything, is a text",
            ": was a text, is anything",
        ),
        (
            json!({"enum": ["a", "b", "c"]}),
            json!({"enum": ["a"]}),
            ": no longer `b`, `c`",
            ": now also `b`, `c`",
        ),
        (
            json!({"type": "string"}),
            json!({"type": "string", "enum": ["a"]}),
            ": now only `a`",
            ": no longer only certain values",
        ),
        (
            json!({"type": "string"}),
            json!({"const": "a"}),
            ": now only `a`",
            ": no longer only certain values",
        ),
        (
            json!({"type": "integer"}),
            json!({"type": "integer", "minimum": 0}),
            ": the least value was none, is 0",
            ": the least value was 0, is none",
        ),
        (
            json!({"type": "integer", "maximum": 9}),
            json!({"type": "integer", "maximum": 5}),
            ": the greatest value was 9, is 5",
            ": the greatest value was 5, is 9",
        ),
        (
            json!({"type": "string", "minLength": 1}),
            json!({"type": "string", "minLength": 3}),
            ": the least length was 1, is 3",
            ": the least length was 3, is 1",
        ),
        (
            json!({"type": "array", "items": {"type": ["string", "null"]}}),
            json!({"type": "array", "items": {"type": "string"}}),
            ", at `[]`: no longer null",
            ", at `[]`: now also null",
        ),
        (
            json!({"type": "array"}),
            json!({"type": "array", "uniqueItems": true}),
            ": nothing may be in it twice now",
            ": things may be in it twice now",
        ),
        (
            json!({"type": "object", "additionalProperties": {"type": "number"}}),
            json!({"type": "object", "additionalProperties": {"type": "integer"}}),
            ", at `.*`: was any number, is a whole number",
            ", at `.*`: was a whole number, is any number",
        ),
        (
            json!({"type": "object"}),
            json!({"type": "object", "additionalProperties": false}),
            ": no longer takes further keys",
            ": takes further keys now",
        ),
        (
            json!({"type": "string"}),
            json!({"type": "string", "pattern": "^a"}),
            ": `pattern` differs",
            ": `pattern` differs",
        ),
    ] {
        assert_eq!(
            argument(old.clone(), new.clone()),
            [format!("{narrowed} (breaks callers)")],
            "{old} {new}"
        );
        assert_eq!(argument(new, old), [format!("{widened} (breaks servers)")]);
    }
}

#[test]
fn types_that_have_nothing_in_common_break_both_sides() {
    let text = json!({"type": "string"});
    assert_eq!(
        argument(text.clone(), json!({"type": "boolean"})),
        [": was a text, is true or false (breaks callers and servers)"]
    );
    let pair = |a: &str, b: &str| json!({"type": "array", "items": [{"type": a}, {"type": b}], "minItems": 2, "maxItems": 2});
    assert_eq!(
        argument(pair("string", "integer"), pair("string", "null")),
        [", at `[1]`: was a whole number, is null (breaks callers and servers)"]
    );
}

#[test]
fn objects_are_compared_key_by_key() {
    let person = |keys: Value, required: Value| json!({"type": "object", "properties": keys, "required": required});
    let old =
        person(json!({"name": {"type": "string"}, "age": {"type": "integer"}}), json!(["name"]));
    let new = person(
        json!({"name": {"type": ["string", "null"]}, "mail": {"type": "string"}}),
        json!(["name", "mail"]),
    );
    assert_eq!(
        argument(old, new),
        [
            ", at `mail`: is new and must be there (breaks callers)",
            ", at `name`: now also null (breaks servers)"
        ]
    );
    let nested = |kind: &str| json!({"type": "object", "properties": {"place": {"type": "object", "properties": {"street": {"type": kind}}}}});
    assert_eq!(
        argument(nested("string"), nested("null")),
        [", at `place.street`: was a text, is null (breaks callers and servers)"]
    );
}

#[test]
fn results_go_the_other_way() {
    let version = |response: Value| procedure(takes(json!({})), response);
    let (narrow, wide) = (json!({"type": "string"}), json!({"type": ["string", "null"]}));
    assert_eq!(
        texts(&compared(version(narrow.clone()), version(wide.clone()))),
        ["a.p: the result: now also null (breaks callers of the older version)"]
    );
    assert_eq!(
        texts(&compared(version(wide), version(narrow))),
        ["a.p: the result: no longer null (breaks servers of the older version)"]
    );
}

#[test]
fn what_says_nothing_about_values_is_no_change() {
    let plain = json!({"type": "object", "properties": {"x": {"type": "string"}}});
    let adorned = json!({"$schema": "http://json-schema.org/draft-07/schema#", "title": "T", "description": "D", "type": "object",
        "properties": {"x": {"type": "string", "format": "date", "default": "a", "examples": ["b"], "x-y": 1}}});
    assert!(
        compared(
            procedure(takes(json!({"x": plain})), plain.clone()),
            procedure(takes(json!({"x": adorned})), adorned.clone())
        )
        .is_empty()
    );
    let one = json!({"anyOf": [{"type": "string"}, {"type": "null"}]});
    let other = json!({"oneOf": [{"type": "null"}, {"type": "string"}]});
    let third = json!({"type": ["null", "string"]});
    assert!(
        argument(one.clone(), other.clone()).is_empty()
            && argument(other, third.clone()).is_empty()
    );
    let defined = json!({"allOf": [{"$ref": "#/definitions/x"}]});
    let mut parameters = takes(json!({"x": defined}));
    parameters["definitions"] = json!({"x": third});
    assert!(
        compared(procedure(parameters, json!({})), procedure(takes(json!({"x": one})), json!({})))
            .is_empty()
    );
}

#[test]
fn a_type_that_contains_itself_is_compared_once() {
    let tree = |kind: &str| {
        let mut parameters = takes(json!({"x": {"$ref": "#/definitions/t"}}));
        parameters["definitions"] = json!({"t": {"type": "object", "properties": {
            "value": {"type": kind}, "left": {"$ref": "#/definitions/t"}, "right": {"anyOf": [{"$ref": "#/definitions/t"}, {"type": "null"}]}}}});
        procedure(parameters, json!({}))
    };
    let changes = texts(&compared(tree("number"), tree("integer")));
    assert_eq!(
        changes,
        [
            "a.p: the argument `x`, at `value`: was any number, is a whole number (breaks callers of the older version)"
        ]
    );
    // Whatever stands on a bus: it ends.
    let knot = json!({"anyOf": [{"$ref": "#/definitions/b"}, {"$ref": "#/definitions/b"}, {"$ref": "#/nowhere"}]});
    let mut tied = takes(json!({"x": knot}));
    tied["definitions"] = json!({"b": {"anyOf": [{"$ref": "#/definitions/b"}, {"$ref": "#/definitions/c"}]}, "c": {"allOf": [{"$ref": "#/definitions/b"}]}});
    assert!(!compared(procedure(tied, json!({})), tree("number")).is_empty());
    let chain = |last: &str| {
        let mut parameters = takes(json!({"x": {"$ref": "#/definitions/0"}}));
        for index in 0..10_000 {
            let next = format!("#/definitions/{}", index + 1);
            let below = match index % 2 {
                0 => json!({"$ref": next}),
                _ => json!({"type": "object", "properties": {"x": {"$ref": next}}}),
            };
            parameters["definitions"][index.to_string()] = below;
        }
        parameters["definitions"]["10000"] = json!({"type": last});
        procedure(parameters, json!({}))
    };
    let deep = texts(&compared(chain("number"), chain("string")));
    assert!(deep[0].contains("nested too deep to compare"), "{deep:?}");
}

#[test]
fn what_is_no_schema_is_refused() {
    for wrong in [json!(3), json!({"rpcs": []}), json!({"events": "x"})] {
        let error = Schema::new("a", wrong).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Malformed);
        assert!(error.to_string().contains("reading the schema of a"), "{error}");
    }
}

/// How somebody pays.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub enum PayV1 {
    Cash,
    Card { number: String },
}

/// The same, later.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub enum PayV2 {
    Cash,
    Card { number: String, name: Option<String> },
    Voucher(u32),
}

#[test]
fn enumerations_of_rust_are_compared_variant_by_variant() {
    mod v1 {
        #[lightbus::api(name = "shop")]
        pub trait Shop {
            async fn pay(&self, how: super::PayV1) -> super::PayV1;
        }
    }
    mod v2 {
        #[lightbus::api(name = "shop")]
        pub trait Shop {
            async fn pay(&self, how: super::PayV2) -> super::PayV2;
        }
    }
    let (old, new) =
        (Schema::of(v1::ShopClient::contract()), Schema::of(v2::ShopClient::contract()));
    let there = texts(&Schema::compare(&old, &new));
    assert!(
        there.contains(&"shop.pay: the argument `how`: now also `Voucher` (breaks servers of the older version)".to_owned()),
        "{there:#?}"
    );
    assert!(
        there.contains(
            &"shop.pay: the result: now also `Voucher` (breaks callers of the older version)"
                .to_owned()
        ),
        "{there:#?}"
    );
    let back = texts(&Schema::compare(&new, &old));
    assert!(back.contains(&"shop.pay: the argument `how`: no longer `Voucher` (breaks callers of the older version)".to_owned()), "{back:#?}");
    assert!(Schema::compare(&new, &new).is_empty());
}

mod v1 {
    #[lightbus::api(name = "shop.till")]
    pub trait Till {
        async fn total(&self, items: Vec<f64>, currency: Option<String>) -> f64;
        async fn close(&self) -> bool;
    }
}

mod v2 {
    #[lightbus::api(name = "shop.till")]
    pub trait Till {
        async fn total(&self, items: Vec<f64>, currency: String) -> f64;
    }
}

struct Service;

impl v1::Till for Service {
    async fn total(&self, items: Vec<f64>, _: Option<String>) -> f64 {
        items.iter().sum()
    }

    async fn close(&self) -> bool {
        true
    }
}

impl v2::Till for Service {
    async fn total(&self, items: Vec<f64>, _: String) -> f64 {
        items.iter().sum()
    }
}

on_every_transport!(
    a_schema_that_breaks_users_is_published_with_a_warning,
    a_schema_that_breaks_users_is_refused_if_so_configured,
    nothing_is_said_if_so_configured,
);

const REASONS: [&str; 2] = [
    "shop.till.close: the procedure was removed (breaks callers of the older version)",
    "shop.till.total: the argument `currency` was optional and is now required (breaks callers of the older version)",
];

async fn a_schema_that_breaks_users_is_published_with_a_warning(place: Place) {
    let log = log();
    let (old, new) = (place.bus("warned-old").await, place.bus("warned").await);
    old.serve(v1::TillApi(Service)).await.unwrap();
    let changes = new.compare_schema(v2::TillClient::contract()).await.unwrap();
    let told = texts(&changes);
    assert!(REASONS.iter().all(|reason| told.iter().any(|text| text == reason)), "{told:#?}");
    new.serve(v2::TillApi(Service)).await.unwrap();
    let log = log();
    for reason in REASONS {
        assert!(log.contains(reason), "{log}");
    }
    let schema = place.bus("web").await.schema("shop.till").await.unwrap().unwrap();
    assert!(schema["rpcs"].get("close").is_none(), "the newer one is on the bus");
}

async fn a_schema_that_breaks_users_is_refused_if_so_configured(place: Place) {
    let old = place.bus("old").await;
    let new = place
        .bus_changed("new", |config| config.bus.schema.on_incompatible = OnIncompatible::Refuse)
        .await;
    old.serve(v1::TillApi(Service)).await.unwrap();
    let error = new.serve(v2::TillApi(Service)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    let told = error.to_string();
    assert!(told.starts_with("serving shop.till: "), "{told}");
    for part in REASONS.into_iter().chain(["on_incompatible: refuse", "or set `warn`"]) {
        assert!(told.contains(part), "{told}\n{part}");
    }
    assert!(new.register(v2::TillClient::contract()).await.is_err(), "nor may it fire");
    let schema = new.schema("shop.till").await.unwrap().unwrap();
    assert!(schema["rpcs"].get("close").is_some(), "what is on the bus is left alone");
    // The same version again breaks nobody.
    new.serve(v1::TillApi(Service)).await.unwrap();
}

async fn nothing_is_said_if_so_configured(place: Place) {
    let old = place.bus("old").await;
    let new = place
        .bus_changed("new", |config| config.bus.schema.on_incompatible = OnIncompatible::Ignore)
        .await;
    old.serve(v1::TillApi(Service)).await.unwrap();
    new.serve(v2::TillApi(Service)).await.unwrap();
    let schema = place.bus("web").await.schema("shop.till").await.unwrap().unwrap();
    assert!(schema["rpcs"].get("close").is_none(), "the newer one is on the bus");
}
