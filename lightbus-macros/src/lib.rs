//! The macros of lightbus: `#[api]`, `#[derive(Event)]` and `#[derive(ApiError)]`.
//!
//! Use them through the crate `lightbus`. All mistakes of one use are reported together, each at its
//! place and with what to write instead.

mod api;
mod api_error;
mod attribute;
mod docs;
mod errors;
mod event;
mod names;
mod parameter;

use proc_macro::TokenStream;
use quote::quote;

/// Describes an API: procedures and events under one name.
///
/// Put it on a trait whose methods are the procedures. A service implements the trait, with `async fn`.
/// The macro generates two types, named after the trait:
///
/// - `AuthApi(service)` is passed to [`Bus::serve`](../lightbus/struct.Bus.html#method.serve);
/// - `AuthClient::new(&bus)` calls the procedures, wherever they are served.
///
/// ```
/// use lightbus::prelude::*;
///
/// /// Users and their passwords.
/// #[lightbus::api(name = "auth", version = 2, events(UserRegistered))]
/// pub trait Auth {
///     /// Returns whether this is the user's password.
///     async fn check_password(&self, username: String, password: String) -> Result<bool, AuthError>;
///
///     /// Returns a page of user names.
///     async fn users(
///         &self,
///         /// Only names with this prefix.
///         prefix: Option<String>,
///         #[arg(default = 20)] limit: usize,
///     ) -> Vec<String>;
/// }
///
/// /// A user has signed up.
/// #[derive(lightbus::Event)]
/// pub struct UserRegistered {
///     pub username: String,
/// }
///
/// #[derive(Debug, PartialEq, lightbus::ApiError)]
/// pub enum AuthError {
///     Locked { minutes: u32 },
/// }
///
/// struct Service;
///
/// impl Auth for Service {
///     async fn check_password(&self, username: String, password: String) -> Result<bool, AuthError> {
///         match &*username {
///             "mallory" => Err(AuthError::Locked { minutes: 3 }),
///             _ => Ok(password == "secret"),
///         }
///     }
///
///     async fn users(&self, prefix: Option<String>, limit: usize) -> Vec<String> {
///         let all = ["admin", "alice", "bob"].map(String::from).into_iter();
///         let prefix = prefix.unwrap_or_default();
///         all.filter(|name| name.starts_with(&prefix)).take(limit).collect()
///     }
/// }
///
/// # #[tokio::main]
/// # async fn main() -> lightbus::Result<()> {
/// let bus = Bus::in_memory().await?;
/// bus.serve(AuthApi(Service)).await?;
///
/// let auth = AuthClient::new(&bus);
/// assert!(auth.check_password("admin", "secret").await?);
/// assert_eq!(auth.users(Some("a".to_owned()), 1).await?, ["admin"]);
/// assert_eq!(auth.users(None, None).await?.len(), 3);
///
/// let error = auth.check_password("mallory", "secret").await.unwrap_err();
/// assert!(matches!(error, lightbus::contract::CallError::Api(AuthError::Locked { minutes: 3 })));
/// # bus.close().await
/// # }
/// ```
///
/// # The attribute
///
/// | key | meaning | default |
/// | --- | --- | --- |
/// | `name = "shop.till"` | the full name on the bus: words separated by dots; not `default` | *required* |
/// | `version = 2` | the version, sent with every event | 1 |
/// | `events(Opened, Closed)` | the events: structs with `#[derive(lightbus::Event)]`. An event belongs to one API | none |
/// | `requires(durable, ordered)` | the capabilities that the API requires of its transports | none |
/// | `crate = ::other::lightbus` | the path of lightbus, if another crate re-exports it | `::lightbus` |
///
/// Doc comments of the trait, its methods and their arguments become descriptions in the schema.
///
/// # Procedures
///
/// Methods are `async fn` with `&self` and owned arguments. Arguments and results are sent as JSON: types
/// of your own derive serde's `Serialize` and `Deserialize`, and `lightbus::JsonSchema` with
/// `#[schemars(crate = "lightbus::schemars")]`.
///
/// | return type | return type of the client's method |
/// | --- | --- |
/// | `T`, or nothing | `Call<T>`: fails only with `lightbus::Error` |
/// | `Result<T>`, such as `lightbus::Result<T>` | `Call<T>`: the error arrives as text |
/// | `Result<T, E>` | `Call<T, CallError<E>>`: `E` arrives as a value. It derives `lightbus::ApiError`, or is a `String` |
///
/// `#[rpc(name = "checkPassword")]` on a method sets another name on the bus.
///
/// # Arguments
///
/// Arguments are sent by name. A call with a missing, unexpected or mistyped argument is refused before
/// the method runs.
///
/// - `String`: the client takes `impl Into<String>`.
/// - `Option<T>` may be omitted by callers, and is then `None`. The client sends `null`.
/// - `#[arg(default = 20)]` may be omitted, too; `#[arg(default)]` uses the type's own default. The client
///   takes `impl Into<Option<T>>`, such as `5` or `None`. `None` is not sent, so the service's default
///   applies, not the caller's. (The client takes an `Option<Option<T>>` if the type is an `Option`.)
/// - `#[arg(name = "userName")]` sets another name on the bus; `r#type` is `type` there.
#[proc_macro_attribute]
pub fn api(arguments: TokenStream, item: TokenStream) -> TokenStream {
    api::expand(arguments.into(), item.into()).into()
}

/// Makes a struct an event, which `bus.fire` takes and handlers of `bus.listen` receive.
///
/// The struct has named fields, or none. Each field is sent as JSON, and must implement `Serialize`,
/// `Deserialize` and `JsonSchema`. The struct itself needs no derive of serde. An event belongs to the
/// API that lists it, see [`macro@api`].
///
/// ```
/// use lightbus::{contract::EventFields, prelude::*};
///
/// #[lightbus::api(name = "shop.till", events(ItemSold))]
/// pub trait Till {}
///
/// /// Something went over the counter.
/// #[derive(lightbus::Event)]
/// #[event(key = "till")] // sales of one till stay in order
/// pub struct ItemSold {
///     pub till: u16,
///     /// What was sold.
///     pub sku: String,
///     #[event(default = 1)]
///     pub quantity: u32,
///     pub customer: Option<String>,
///     #[event(rename = "type")]
///     pub kind: String,
/// }
///
/// # fn main() -> lightbus::Result<()> {
/// assert_eq!(ItemSold::CONTRACT.name, "item_sold");
/// assert_eq!(ItemSold::api().name, "shop.till");
///
/// let fields = args! { till: 3, sku: "pen", type: "retail", unknown: true }.into_fields()?;
/// let sold = ItemSold::decode(&fields)?;
/// assert_eq!((sold.quantity, sold.customer.as_deref()), (1, None));
/// assert_eq!(sold.key().as_deref(), Some("3"));
/// # Ok(()) }
/// ```
///
/// # Attributes
///
/// | on the struct | meaning | default |
/// | --- | --- | --- |
/// | `#[event(name = "sold")]` | the name on the bus | the name of the struct, `ItemSold` as `item_sold` |
/// | `#[event(key = "till")]` | the field that is the ordering key, as text. `null` is no key | no key |
/// | `#[event(crate = ::other::lightbus)]` | the path of lightbus | `::lightbus` |
///
/// | on a field | meaning |
/// | --- | --- |
/// | `#[event(default = 1)]`, `#[event(default)]` | the value if it is missing from a received event: this, or the type's own default. When the event is fired, it is always sent |
/// | `#[event(rename = "type")]` | the name on the bus |
///
/// A missing `Option` is `None`. Unknown fields are ignored, so an event can gain fields without breaking
/// its listeners.
#[proc_macro_derive(Event, attributes(event))]
pub fn derive_event(input: TokenStream) -> TokenStream {
    event::expand(input.into()).into()
}

/// Makes an enum or a struct an error that a procedure can return, and that arrives typed.
///
/// Fields must implement `Serialize` and `Deserialize`. The type itself needs no derive of serde.
///
/// ```
/// use lightbus::contract::ApiError;
///
/// #[derive(Debug, PartialEq, lightbus::ApiError)]
/// pub enum AuthError {
///     UnknownUser,
///     Locked { minutes: u32 },
///     Other(String),
/// }
///
/// let locked = AuthError::Locked { minutes: 3 };
/// assert_eq!(locked.to_string(), "AuthError::Locked { minutes: 3 }");
///
/// let remote = locked.to_remote();
/// assert_eq!(remote.name.as_deref(), Some("AuthError"));
/// assert_eq!(remote.detail.as_deref(), Some(&br#"{"Locked":{"minutes":3}}"#[..]));
/// assert_eq!(AuthError::from_remote(&remote), Some(locked));
/// ```
///
/// The type's name, the error in serde's usual form, and its `Display` text as the message are sent. A
/// caller that declares a type of the same name receives the error; one that does not, or whose type
/// lacks the variant, receives the message.
///
/// # Other derived traits
///
/// `Display`, as in the example, with fields as JSON; and `std::error::Error`, if the type is `Debug`. To
/// implement `Display` yourself:
///
/// ```
/// #[derive(lightbus::ApiError)]
/// #[api_error(display)]
/// struct Locked {
///     minutes: u32,
/// }
///
/// impl std::fmt::Display for Locked {
///     fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
///         write!(f, "locked for {} minutes", self.minutes)
///     }
/// }
/// ```
///
/// # Attributes
///
/// | on the type | meaning |
/// | --- | --- |
/// | `#[api_error(display)]` | do not derive `Display` and `std::error::Error`: the type implements them |
/// | `#[api_error(serde)]` | do not derive `Serialize` and `Deserialize`: use those of the type, with its `#[serde(…)]` attributes |
/// | `#[api_error(name = "auth.Error")]` | the name on the bus, in place of the type's |
/// | `#[api_error(crate = ::other::lightbus)]` | the path of lightbus, in place of `::lightbus` |
#[proc_macro_derive(ApiError, attributes(api_error))]
pub fn derive_api_error(input: TokenStream) -> TokenStream {
    api_error::expand(input.into()).into()
}

/// Silences lints in generated code.
fn quiet() -> proc_macro2::TokenStream {
    quote! {
        #[allow(
            clippy::all,
            clippy::pedantic,
            clippy::nursery,
            deprecated,
            missing_docs,
            unused_qualifications,
            unused_variables
        )]
    }
}
