//! What a service says of calls that do not fit.
#![allow(missing_docs, reason = "what the macros write is documented")]

use lightbus::{Arguments, contract::Service as _};

#[lightbus::api(name = "auth")]
trait Auth {
    async fn check(&self, username: String, #[arg(default = 3)] tries: u8) -> bool;
}

struct Service;

impl Auth for Service {
    async fn check(&self, _username: String, tries: u8) -> bool {
        tries == 3
    }
}

async fn answer(procedure: &str, arguments: &[(&str, &str)]) -> String {
    let mut fields = Arguments::new();
    for (name, value) in arguments {
        fields.push(*name, value.as_bytes().to_vec());
    }
    match AuthApi(Service).call(procedure, &fields).await {
        Ok(value) => String::from_utf8(value.to_vec()).unwrap(),
        Err(error) => error.message,
    }
}

#[tokio::test]
async fn a_service_refuses_arguments_that_do_not_fit() {
    assert_eq!(answer("check", &[("username", "\"a\"")]).await, "true");
    assert_eq!(answer("check", &[("username", "\"a\""), ("tries", "4")]).await, "false");
    for (arguments, message) in [
        (&[][..], "auth.check was called: the argument `username` is missing"),
        (
            &[("username", "3")],
            "auth.check was called: the argument `username` is of another type: invalid type: integer `3`, expected a string at line 1 column 1",
        ),
        (
            &[("username", "\"a\""), ("tries", "300")],
            "auth.check was called: the argument `tries` is of another type: invalid value: integer `300`, expected u8 at line 1 column 3",
        ),
        (
            &[("username", "\"a\""), ("password", "\"b\"")],
            "auth.check was called: there is no argument `password` (arguments username, tries)",
        ),
    ] {
        assert_eq!(answer("check", arguments).await, message);
    }
    assert_eq!(answer("chek", &[]).await, "`auth` has no procedure `chek` (procedures check)");
}
