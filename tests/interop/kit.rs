//! The contract of `tests/python/README.md`, in Rust: every kind of value that Lightbus carries.
#![allow(
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    reason = "the README says what each is"
)]

use std::collections::{BTreeMap, BTreeSet};

use base64::{Engine, engine::general_purpose::STANDARD};
use chrono::{DateTime, Days, FixedOffset, NaiveDate, NaiveDateTime};
use lightbus::{JsonSchema, prelude::*};
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize, de::Error as _};
use uuid::Uuid;

#[lightbus::api(name = "kit.shop", version = 3, events(OrderPlaced, StockChanged, Tick))]
pub trait Shop {
    async fn add(&self, a: i64, b: i64) -> i64;
    async fn join(
        &self,
        words: Vec<String>,
        #[arg(default = " ".to_owned())] separator: String,
    ) -> String;
    async fn echo(&self, value: serde_json::Value) -> serde_json::Value;
    async fn nothing(&self);
    async fn defaults(
        &self,
        a: i64,
        #[arg(default = 2)] b: i64,
        #[arg(default = "three".to_owned())] c: String,
        d: Option<i64>,
    ) -> Defaults;
    async fn shift(&self, moment: Moment, days: i64) -> Moment;
    async fn next_day(&self, day: NaiveDate) -> NaiveDate;
    async fn total(&self, items: Vec<Item>) -> Decimal;
    async fn customer(&self, id: Uuid) -> Customer;
    async fn reverse(&self, data: Bytes) -> Bytes;
    async fn larger(&self, size: Size) -> Size;
    #[rpc(name = "move")]
    async fn move_to(&self, place: Place, number: i64) -> Place;
    async fn swap(&self, pair: (i64, String)) -> (String, i64);
    async fn unique(&self, words: Vec<String>) -> BTreeSet<String>;
    async fn maybe(&self, moment: Option<Moment>) -> Option<Moment>;
    #[allow(clippy::too_many_arguments)]
    async fn types(
        &self,
        moment: Moment,
        day: NaiveDate,
        amount: Decimal,
        id: Uuid,
        data: Bytes,
        size: Size,
        place: Place,
        items: Vec<Item>,
        pair: (i64, String),
        words: BTreeSet<String>,
        maybe: Option<Moment>,
    ) -> BTreeMap<String, String>;
    async fn fail(&self, kind: String, message: String) -> Result<(), String>;
    async fn sleep(&self, seconds: f64) -> f64;
    async fn block(&self, seconds: f64) -> f64;
    async fn announce(
        &self,
        event: String,
        arguments: BTreeMap<String, serde_json::Value>,
    ) -> lightbus::Result<String>;
}

#[derive(Clone, Debug, PartialEq, lightbus::Event)]
pub struct OrderPlaced {
    pub order_id: Uuid,
    pub placed_at: Moment,
    pub items: Vec<Item>,
    pub total: Decimal,
    pub note: Option<String>,
}

#[derive(Clone, Debug, PartialEq, lightbus::Event)]
#[event(key = "sku")]
pub struct StockChanged {
    pub sku: String,
    pub left: i64,
    pub sizes: Vec<Size>,
    pub thumbnail: Bytes,
    pub extra: BTreeMap<String, serde_json::Value>,
}

#[derive(Clone, Debug, PartialEq, lightbus::Event)]
pub struct Tick {}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Defaults {
    pub a: i64,
    pub b: i64,
    pub c: String,
    pub d: Option<i64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Size {
    Small,
    Medium,
    Large,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Place {
    pub street: String,
    pub number: i64,
    #[serde(default = "netherlands")]
    pub country: String,
}

fn netherlands() -> String {
    "NL".to_owned()
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Item {
    pub sku: String,
    pub quantity: i64,
    pub price: Decimal,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Customer {
    pub id: Uuid,
    pub name: String,
    pub born: NaiveDate,
    pub place: Place,
    pub size: Size,
    pub tags: Vec<String>,
    pub ratings: BTreeMap<String, f64>,
    pub nickname: Option<String>,
}

/// A moment as Python writes it: with the offset that it came with, or none.
#[derive(Clone, Copy, Debug, PartialEq, JsonSchema)]
#[schemars(with = "DateTime<FixedOffset>")]
pub enum Moment {
    Offset(DateTime<FixedOffset>),
    Local(NaiveDateTime),
}

impl Moment {
    fn later(self, days: i64) -> Self {
        let shift = |by: u64| Days::new(by);
        let by = shift(days.unsigned_abs());
        match (self, days < 0) {
            (Self::Offset(at), false) => Self::Offset(at + by),
            (Self::Offset(at), true) => Self::Offset(at - by),
            (Self::Local(at), false) => Self::Local(at + by),
            (Self::Local(at), true) => Self::Local(at - by),
        }
    }
}

impl Serialize for Moment {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Offset(at) => serializer.collect_str(&at.format("%Y-%m-%dT%H:%M:%S%.f%:z")),
            Self::Local(at) => serializer.collect_str(&at.format("%Y-%m-%dT%H:%M:%S%.f")),
        }
    }
}

impl<'de> Deserialize<'de> for Moment {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if let Ok(at) = DateTime::parse_from_rfc3339(&text) {
            return Ok(Self::Offset(at));
        }
        NaiveDateTime::parse_from_str(&text, "%Y-%m-%dT%H:%M:%S%.f")
            .map(Self::Local)
            .map_err(D::Error::custom)
    }
}

/// Bytes as Python sends them: base64 with padding.
#[derive(Clone, Debug, PartialEq, JsonSchema)]
#[schemars(with = "String")]
pub struct Bytes(pub Vec<u8>);

impl Serialize for Bytes {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        STANDARD.decode(String::deserialize(deserializer)?).map(Self).map_err(D::Error::custom)
    }
}

/// The service that the README describes.
pub struct RustShop {
    pub bus: Bus,
}

impl Shop for RustShop {
    async fn add(&self, a: i64, b: i64) -> i64 {
        a + b
    }

    async fn join(&self, words: Vec<String>, separator: String) -> String {
        words.join(&separator)
    }

    async fn echo(&self, value: serde_json::Value) -> serde_json::Value {
        value
    }

    async fn nothing(&self) {}

    async fn defaults(&self, a: i64, b: i64, c: String, d: Option<i64>) -> Defaults {
        Defaults { a, b, c, d }
    }

    async fn shift(&self, moment: Moment, days: i64) -> Moment {
        moment.later(days)
    }

    async fn next_day(&self, day: NaiveDate) -> NaiveDate {
        day + Days::new(1)
    }

    async fn total(&self, items: Vec<Item>) -> Decimal {
        items.iter().map(|item| item.price * Decimal::from(item.quantity)).sum()
    }

    async fn customer(&self, id: Uuid) -> Customer {
        Customer {
            id,
            name: "Zoë ☃".to_owned(),
            born: NaiveDate::from_ymd_opt(1990, 2, 28).unwrap(),
            place: Place { street: "Dam".to_owned(), number: 1, country: netherlands() },
            size: Size::Medium,
            tags: vec!["a".to_owned(), "b".to_owned()],
            ratings: BTreeMap::from([("chess".to_owned(), 1.5)]),
            nickname: None,
        }
    }

    async fn reverse(&self, data: Bytes) -> Bytes {
        Bytes(data.0.into_iter().rev().collect())
    }

    async fn larger(&self, size: Size) -> Size {
        match size {
            Size::Small => Size::Medium,
            Size::Medium | Size::Large => Size::Large,
        }
    }

    async fn move_to(&self, place: Place, number: i64) -> Place {
        Place { number, ..place }
    }

    async fn swap(&self, pair: (i64, String)) -> (String, i64) {
        (pair.1, pair.0)
    }

    async fn unique(&self, words: Vec<String>) -> BTreeSet<String> {
        words.into_iter().collect()
    }

    async fn maybe(&self, moment: Option<Moment>) -> Option<Moment> {
        moment
    }

    async fn types(
        &self,
        _moment: Moment,
        _day: NaiveDate,
        _amount: Decimal,
        _id: Uuid,
        _data: Bytes,
        _size: Size,
        _place: Place,
        _items: Vec<Item>,
        _pair: (i64, String),
        _words: BTreeSet<String>,
        _maybe: Option<Moment>,
    ) -> BTreeMap<String, String> {
        let types = [
            ("moment", "Moment"),
            ("day", "NaiveDate"),
            ("amount", "Decimal"),
            ("id", "Uuid"),
            ("data", "Bytes"),
            ("size", "Size"),
            ("place", "Place"),
            ("items", "Vec<Item>"),
            ("pair", "(i64, String)"),
            ("words", "BTreeSet<String>"),
            ("maybe", "Option<Moment>"),
        ];
        types.into_iter().map(|(name, kind)| (name.to_owned(), kind.to_owned())).collect()
    }

    async fn fail(&self, kind: String, message: String) -> Result<(), String> {
        if kind == "panic" {
            panic!("{message}");
        }
        Err(format!("{kind}: {message}"))
    }

    async fn sleep(&self, seconds: f64) -> f64 {
        tokio::time::sleep(std::time::Duration::from_secs_f64(seconds)).await;
        seconds
    }

    async fn block(&self, seconds: f64) -> f64 {
        tokio::time::sleep(std::time::Duration::from_secs_f64(seconds)).await;
        seconds
    }

    async fn announce(
        &self,
        event: String,
        arguments: BTreeMap<String, serde_json::Value>,
    ) -> lightbus::Result<String> {
        let mut args = lightbus::Args::new();
        for (name, value) in &arguments {
            args = args.with(name, value);
        }
        let fired = self.bus.fire_event(&format!("kit.shop.{event}"), args).await?;
        Ok(fired.id.to_string())
    }
}
