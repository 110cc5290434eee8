//! Events: names, keys, defaults, what may be missing.
#![deny(warnings, missing_debug_implementations, unreachable_pub, unused_qualifications)]
#![allow(missing_docs, reason = "what the macros write is documented")]

use lightbus::{
    Arguments,
    contract::{Event as _, EventFields},
};

/// Sold.
///  More of it.
#[derive(Debug, PartialEq, lightbus::Event)]
#[event(key = "till")]
pub struct HTTPItemSold {
    pub till: u16,
    /// What was sold.
    #[event(rename = "articleNumber")]
    pub sku: String,
    #[event(default = "EUR")]
    pub currency: String,
    #[event(default)]
    pub quantity: u32,
    pub customer: Option<String>,
    pub r#type: Option<u8>,
}

#[derive(Debug, lightbus::Event)]
#[event(name = "shut")]
pub struct Closed {}

#[derive(Debug, lightbus::Event)]
pub struct Opened;

#[derive(Debug, lightbus::Event)]
#[event(key = "name")]
pub struct Renamed {
    pub name: Option<String>,
}

#[lightbus::api(name = "till", events(HTTPItemSold, Closed, self::Opened, Renamed,))]
pub trait Till {}

fn fields(of: &[(&str, &str)]) -> Arguments {
    of.iter().map(|(name, value)| ((*name).into(), value.as_bytes().to_vec().into())).collect()
}

#[test]
fn events_have_the_shape_that_they_say() {
    assert_eq!(HTTPItemSold::CONTRACT.name, "http_item_sold");
    assert_eq!(HTTPItemSold::CONTRACT.description, "Sold.\n More of it.");
    assert_eq!((Closed::CONTRACT.name, Opened::CONTRACT.name), ("shut", "opened"));
    assert_eq!((HTTPItemSold::api().name, Opened::api().version), ("till", 1));
    let parameters = HTTPItemSold::CONTRACT.parameters;
    let required: Vec<_> = parameters.iter().map(|one| (one.name, one.required)).collect();
    assert_eq!(
        required,
        [
            ("till", true),
            ("articleNumber", true),
            ("currency", false),
            ("quantity", false),
            ("customer", false),
            ("type", false),
        ]
    );
    assert_eq!(parameters[1].description, "What was sold.");
    assert_eq!(parameters[2].default.unwrap()(), "EUR");

    let least = fields(&[("till", "3"), ("articleNumber", "\"pen\""), ("unknown", "[]")]);
    let sold = HTTPItemSold::decode(&least).unwrap();
    assert_eq!(sold.key().as_deref(), Some("3"));
    let expected = HTTPItemSold {
        till: 3,
        sku: "pen".to_owned(),
        currency: "EUR".to_owned(),
        quantity: 0,
        customer: None,
        r#type: None,
    };
    assert_eq!(sold, expected);
    let all = fields(&[
        ("till", "3"),
        ("articleNumber", "\"pen\""),
        ("currency", "\"EUR\""),
        ("quantity", "0"),
        ("customer", "null"),
        ("type", "null"),
    ]);
    assert_eq!(sold.encode().unwrap(), all);

    let error = HTTPItemSold::decode(&fields(&[("till", "3")])).unwrap_err();
    assert!(error.to_string().contains("`articleNumber` is missing"), "{error}");

    assert!(Opened.encode().unwrap().is_empty() && Opened.key().is_none());
    Closed::decode(&least).unwrap();
    let named = |name: Option<&str>| Renamed { name: name.map(str::to_owned) }.key();
    assert_eq!(named(Some("a b")).as_deref(), Some("a b"));
    assert_eq!(named(None), None);
}
