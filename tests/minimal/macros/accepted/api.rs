//! An API with all that an API can have, called over the memory transport.
#![deny(warnings, missing_docs, missing_debug_implementations, unreachable_pub, rust_2018_idioms)]
#![deny(unused_qualifications, non_local_definitions, private_interfaces)]

use std::{collections::BTreeMap, time::Duration};

use lightbus::{ErrorKind, contract::CallError, prelude::*};

/// Prices and stock.
///
/// Second paragraph.
#[lightbus::api(name = "shop.till", version = 3, events(events::Opened, ItemSold))]
pub trait Till: std::fmt::Debug {
    /// Adds up.
    async fn total(
        &self,
        /// What is in the basket.
        lines: Vec<Line>,
        #[arg(default = "EUR")] currency: String,
    ) -> Result<String, TillError>;

    /// The price of one.
    #[rpc(name = "priceOf")]
    async fn price_of(&self, #[arg(name = "articleNumber")] sku: String) -> lightbus::Result<u32>;

    /// Keywords, and names that the macros might use themselves.
    #[expect(clippy::too_many_arguments, reason = "there are many")]
    async fn r#match(
        &self,
        r#type: String,
        fields: u8,
        names: Option<String>,
        bus: bool,
        procedure: (u8, u8),
        arguments: BTreeMap<String, u8>,
        argument_0: u8,
        error: u8,
    ) -> String;

    /// Gives nothing, takes what may be left out.
    async fn close(
        &self,
        #[arg(default)] force: bool,
        #[arg(default = Some(5))] after: Option<u64>,
        #[arg(default = LIMIT * 2)] limit: u64,
        #[arg(default)] notes: Vec<String>,
    );

    /// Fails with text.
    async fn text(&self) -> Result<(), String>;

    /// Is on its way out.
    #[deprecated = "use nothing"]
    async fn old(&self) -> serde_json::Value;
}

const LIMIT: u64 = 10;

/// One line of a receipt.
#[derive(Debug, lightbus_serde::Serialize, lightbus_serde::Deserialize, lightbus::JsonSchema)]
#[serde(crate = "lightbus_serde")]
#[schemars(crate = "lightbus::schemars")]
pub struct Line {
    sku: String,
    quantity: u32,
}

use lightbus::__private::{serde as lightbus_serde, serde_json};

/// What can go wrong.
#[derive(Debug, PartialEq, lightbus::ApiError)]
pub enum TillError {
    /// Nothing to add up.
    Empty,
    /// Not for sale.
    Unknown {
        /// What was asked for.
        sku: String,
    },
}

mod events {
    /// Ready to sell.
    #[derive(Debug, lightbus::Event)]
    pub(super) struct Opened;
}

/// Something was sold.
#[derive(Debug, lightbus::Event)]
#[event(key = "sku")]
pub struct ItemSold {
    /// What.
    pub sku: String,
}

#[derive(Debug)]
struct Service;

impl Till for Service {
    async fn total(&self, lines: Vec<Line>, currency: String) -> Result<String, TillError> {
        if lines.is_empty() {
            return Err(TillError::Empty);
        }
        match lines.iter().find(|line| line.sku == "ink") {
            Some(line) => Err(TillError::Unknown { sku: line.sku.clone() }),
            None => {
                Ok(format!("{} {currency}", lines.iter().map(|line| line.quantity).sum::<u32>()))
            }
        }
    }

    async fn price_of(&self, sku: String) -> lightbus::Result<u32> {
        match &*sku {
            "pen" => Ok(2),
            _ => Err(lightbus::Error::new(ErrorKind::Unknown, format!("no {sku}"))),
        }
    }

    async fn r#match(
        &self,
        r#type: String,
        fields: u8,
        names: Option<String>,
        bus: bool,
        procedure: (u8, u8),
        arguments: BTreeMap<String, u8>,
        argument_0: u8,
        error: u8,
    ) -> String {
        format!("{type} {fields} {names:?} {bus} {procedure:?} {arguments:?} {argument_0} {error}")
    }

    async fn close(&self, force: bool, after: Option<u64>, limit: u64, notes: Vec<String>) {
        assert!(!force && notes.is_empty());
        assert!(matches!((after, limit), (Some(5), 20) | (None, 1)), "{after:?} {limit}");
    }

    async fn text(&self) -> Result<(), String> {
        Err("no".to_owned())
    }

    async fn old(&self) -> serde_json::Value {
        serde_json::json!({ "a": [1] })
    }
}

#[test]
fn an_api_with_everything_is_called() {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(run())
        .unwrap();
}

async fn run() -> lightbus::Result<()> {
    let contract = TillClient::contract();
    assert_eq!((contract.name, contract.version), ("shop.till", 3));
    assert_eq!(contract.description, "Prices and stock.\n\nSecond paragraph.");
    let names: Vec<_> = contract.procedures.iter().map(|procedure| procedure.name).collect();
    assert_eq!(names, ["total", "priceOf", "match", "close", "text", "old"]);
    let events: Vec<_> = contract.events.iter().map(|event| event.name).collect();
    assert_eq!(events, ["opened", "item_sold"]);
    let total = contract.procedure("total").unwrap();
    assert_eq!(total.description, "Adds up.");
    assert_eq!(total.parameters[0].description, "What is in the basket.");
    assert!(total.parameters[0].required && !total.parameters[1].required);
    assert_eq!(total.parameters[1].default.unwrap()(), "EUR");
    assert!(!contract.procedure("match").unwrap().parameters[2].required);

    let document = lightbus::schema::document(contract);
    let response = &document["rpcs"]["total"]["response"];
    assert_eq!(response["type"], "string", "{response}");
    let close = &document["rpcs"]["close"];
    assert_eq!(close["response"]["type"], "null", "{close}");
    assert_eq!(close["parameters"]["properties"]["limit"]["default"], 20, "{close}");

    let bus = Bus::in_memory().await?;
    bus.serve(TillApi(Service)).await?;
    let till = TillClient::new(&bus).clone();
    let line = |sku: &str| Line { sku: sku.to_owned(), quantity: 2 };

    let sum = till.total(vec![line("pen"), line("cup")], None).timeout(Duration::from_secs(1));
    assert_eq!(sum.await?, "4 EUR");
    assert_eq!(till.total(vec![line("pen")], "USD".to_owned()).await?, "2 USD");
    match till.total(vec![line("ink")], None).await {
        Err(CallError::Api(error)) => assert_eq!(error, TillError::Unknown { sku: "ink".into() }),
        other => panic!("{other:?}"),
    }
    let empty = till.total(Vec::new(), None).await.unwrap_err();
    assert_eq!(empty.to_string(), "TillError::Empty");

    assert_eq!(till.price_of("pen").await?, 2);
    let error = till.price_of("ink").await.unwrap_err();
    assert!(error.kind() == ErrorKind::Remote && error.to_string().contains("no ink"), "{error}");

    let matched = till.r#match("t", 1, None, true, (2, 3), BTreeMap::new(), 4, 5).await?;
    assert_eq!(matched, "t 1 None true (2, 3) {} 4 5");
    till.close(None, None, None, None).await?;
    till.close(false, Some(None), 1, vec![]).await?;
    assert!(matches!(till.text().await, Err(CallError::Api(text)) if text == "no"));
    #[expect(deprecated, reason = "the client's method is, too")]
    let old = till.old().await?;
    assert_eq!(old["a"][0], 1);
    bus.close().await
}
