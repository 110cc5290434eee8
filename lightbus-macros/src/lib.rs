//! The macros of lightbus: `#[api]`, `#[derive(Event)]` and `#[derive(ApiError)]`.
//!
//! Use them through the crate `lightbus`, which they write code for. All mistakes of one use are
//! told at once, each where it is, with what to write instead.

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

/// Describes an API: what can be called and listened to under one name.
///
/// It is written above a trait whose methods are the procedures. The trait is what a service
/// implements, with `async fn`; beside it stand two types, named after it:
///
/// - `AuthApi(service)` is what [`Bus::serve`](../lightbus/struct.Bus.html#method.serve) takes;
/// - `AuthClient::new(&bus)` calls the procedures wherever they are served.
///
/// ```
/// use lightbus::prelude::*;
///
/// /// Who is who.
/// #[lightbus::api(name = "auth", version = 2, events(UserRegistered))]
/// pub trait Auth {
///     /// Whether this is the user's password.
///     async fn check_password(&self, username: String, password: String) -> Result<bool, AuthError>;
///
///     /// Names of users, a page at a time.
///     async fn users(
///         &self,
///         /// Only names that begin so.
///         prefix: Option<String>,
///         #[arg(default = 20)] limit: usize,
///     ) -> Vec<String>;
/// }
///
/// /// Somebody has signed up.
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
/// | key | is | if left out |
/// | --- | --- | --- |
/// | `name = "shop.till"` | the full name on the bus: words with dots between; not `default` | *required* |
/// | `version = 2` | sent with every event | 1 |
/// | `events(Opened, Closed)` | what can be listened to: structs with `#[derive(lightbus::Event)]`. An event belongs to one API | none |
/// | `crate = ::other::lightbus` | where lightbus is, if a crate hands it on under its own name | `::lightbus` |
///
/// Doc comments of the trait, its methods and their arguments become descriptions in the schema.
///
/// # Procedures
///
/// Methods are `async fn` with `&self` and owned arguments. What they take and give crosses the bus
/// as JSON: types of your own derive serde's `Serialize` and `Deserialize`, and
/// `lightbus::JsonSchema` with `#[schemars(crate = "lightbus::schemars")]`.
///
/// | it gives | the client's method gives |
/// | --- | --- |
/// | `T`, or nothing | `Call<T>`: fails only with `lightbus::Error` |
/// | `Result<T>`, such as `lightbus::Result<T>` | `Call<T>`: the error arrives as text |
/// | `Result<T, E>` | `Call<T, CallError<E>>`: `E` arrives as it was. It derives `lightbus::ApiError`, or is a `String` |
///
/// `#[rpc(name = "checkPassword")]` on a method gives it another name on the bus.
///
/// # Arguments
///
/// They are sent by name. A call that lacks one, has one too many, or one of another type is
/// refused before the method runs.
///
/// - `String`: the client takes `impl Into<String>`.
/// - `Option<T>` may be left out by callers, and is `None` then. The client sends `null`.
/// - `#[arg(default = 20)]` may be left out too; `#[arg(default)]` takes the type's own default. The
///   client takes `impl Into<Option<T>>`, so `5` or `None`: `None` is not sent, so that the
///   service's default counts, not the caller's. (It takes an `Option<Option<T>>` where the type is an
///   `Option` itself.)
/// - `#[arg(name = "userName")]` gives it another name on the bus; `r#type` is `type` there.
#[proc_macro_attribute]
pub fn api(arguments: TokenStream, item: TokenStream) -> TokenStream {
    api::expand(arguments.into(), item.into()).into()
}

/// Makes a struct an event's fields: what `bus.fire` takes and `bus.listen` gives.
///
/// The struct has named fields, or none; each crosses the bus on its own, as JSON, and needs
/// `Serialize`, `Deserialize` and `JsonSchema`. The struct itself needs no derive of serde. An event
/// belongs to the API that lists it, see [`macro@api`].
///
/// ```
/// use lightbus::{contract::EventFields, prelude::*};
///
/// #[lightbus::api(name = "shop.till", events(ItemSold))]
/// pub trait Till {}
///
/// /// Something went over the counter.
/// #[derive(lightbus::Event)]
/// #[event(key = "till")] // what one till sells stays in order, where the transport can
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
/// | on the struct | is | if left out |
/// | --- | --- | --- |
/// | `#[event(name = "sold")]` | the name on the bus | that of the struct, `ItemSold` as `item_sold` |
/// | `#[event(key = "till")]` | the field whose events stay in order, as text. `null` is no key | no key |
/// | `#[event(crate = ::other::lightbus)]` | where lightbus is | `::lightbus` |
///
/// | on a field | is |
/// | --- | --- |
/// | `#[event(default = 1)]`, `#[event(default)]` | its value if it was not sent: this, or the type's own default. When the event is fired, it is always sent |
/// | `#[event(rename = "type")]` | its name on the bus |
///
/// An `Option` is `None` if it was not sent. Fields that the struct does not have are ignored, so
/// that an event can grow without breaking those who listen.
#[proc_macro_derive(Event, attributes(event))]
pub fn derive_event(input: TokenStream) -> TokenStream {
    event::expand(input.into()).into()
}

/// Makes an enum or a struct an error that a procedure can give, and that arrives typed.
///
/// Fields need `Serialize` and `Deserialize`; the type itself needs no derive of serde.
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
/// Over the bus go the type's name, the error in serde's usual form, and its `Display` as the
/// message, which is all that a caller sees who knows nothing of the type. A caller that declares
/// a type of the same name gets the error; if it lacks the variant, it gets the message.
///
/// # What is derived besides
///
/// `Display`, as in the example, with fields as JSON; and `std::error::Error`, if the type is
/// `Debug`. For a `Display` of your own:
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
/// | on the type | is |
/// | --- | --- |
/// | `#[api_error(display)]` | `Display` is there already, by hand or from another derive; then `std::error::Error` is left to you as well |
/// | `#[api_error(serde)]` | `Serialize` and `Deserialize` are there already: use them, with all that `#[serde(…)]` says |
/// | `#[api_error(name = "auth.Error")]` | the name on the bus, instead of the type's |
/// | `#[api_error(crate = ::other::lightbus)]` | where lightbus is, instead of `::lightbus` |
#[proc_macro_derive(ApiError, attributes(api_error))]
pub fn derive_api_error(input: TokenStream) -> TokenStream {
    api_error::expand(input.into()).into()
}

/// What the compiler and clippy shall not say of code that nobody reads.
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
