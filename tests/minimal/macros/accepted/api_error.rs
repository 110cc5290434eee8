//! Errors that cross the bus: all shapes, all attributes.
#![deny(warnings, missing_debug_implementations, unused_qualifications)]
#![allow(missing_docs, reason = "what the macros write is documented")]

use std::fmt::{self, Debug};

use lightbus::{
    __private::serde,
    RemoteError,
    contract::{ApiError, CallError},
};

#[derive(Clone, Debug, PartialEq, lightbus::ApiError)]
#[non_exhaustive]
pub enum AuthError {
    /// No such user.
    UnknownUser,
    Locked {
        minutes: u32,
        r#type: Option<String>,
    },
    Other(String, u8),
    New(Vec<u8>),
    Braces {},
}

#[derive(Debug, PartialEq, lightbus::ApiError)]
pub struct Locked {
    minutes: u32,
}

#[derive(Debug, PartialEq, lightbus::ApiError)]
#[api_error(name = "auth.Denied")]
pub struct Denied;

#[derive(Debug, PartialEq, lightbus::ApiError)]
#[api_error(display)]
pub struct Shown(u8);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "shown {}", self.0)
    }
}

#[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize, lightbus::ApiError)]
#[serde(crate = "serde", tag = "code", rename_all = "snake_case")]
#[api_error(serde)]
pub enum Own {
    NotFound { id: u8 },
}

/// Without `Debug`, there is `Display` still.
#[allow(missing_debug_implementations)]
#[derive(lightbus::ApiError)]
pub enum Quiet {
    Psst,
}

fn there_and_back<E: ApiError + PartialEq + Debug + fmt::Display>(
    error: E,
    name: &str,
    detail: &str,
    message: &str,
) {
    let remote = error.to_remote();
    assert_eq!(remote.name.as_deref(), Some(name));
    assert_eq!(std::str::from_utf8(remote.detail.as_ref().unwrap()).unwrap(), detail);
    assert_eq!(remote.message, message);
    assert_eq!(E::from_remote(&remote), Some(error));
    assert_eq!(E::from_remote(&RemoteError { name: Some("Else".into()), ..remote.clone() }), None);
    assert_eq!(E::from_remote(&RemoteError { detail: Some("{".into()), ..remote.clone() }), None);
    assert_eq!(E::from_remote(&RemoteError { detail: None, ..remote }), None);
}

fn is_error<E: std::error::Error>(_: &E) {}

#[test]
fn errors_cross_the_bus_by_their_names() {
    let name = "AuthError";
    there_and_back(AuthError::UnknownUser, name, r#""UnknownUser""#, "AuthError::UnknownUser");
    there_and_back(
        AuthError::Locked { minutes: 3, r#type: Some("a\"b".into()) },
        name,
        r#"{"Locked":{"minutes":3,"type":"a\"b"}}"#,
        r#"AuthError::Locked { minutes: 3, type: "a\"b" }"#,
    );
    there_and_back(
        AuthError::Other("x".into(), 1),
        name,
        r#"{"Other":["x",1]}"#,
        r#"AuthError::Other("x", 1)"#,
    );
    there_and_back(AuthError::New(vec![1]), name, r#"{"New":[1]}"#, "AuthError::New([1])");
    there_and_back(AuthError::Braces {}, name, r#"{"Braces":{}}"#, "AuthError::Braces {  }");
    there_and_back(Locked { minutes: 3 }, "Locked", r#"{"minutes":3}"#, "Locked { minutes: 3 }");
    there_and_back(Denied, "auth.Denied", "null", "Denied");
    there_and_back(Shown(1), "Shown", "1", "shown 1");
    there_and_back(
        Own::NotFound { id: 1 },
        "Own",
        r#"{"code":"not_found","id":1}"#,
        "Own::NotFound { id: 1 }",
    );

    is_error(&AuthError::UnknownUser);
    is_error(&CallError::Api(Denied));
    assert_eq!(CallError::Api(Quiet::Psst).to_string(), "Quiet::Psst");
    let error: lightbus::Error = CallError::Api(Quiet::Psst).into();
    assert_eq!(error.message(), "Quiet::Psst");
}
