//! The macros in places where names mean something else: in functions, in modules, under other
//! names, with the prelude's names taken.
#![deny(warnings)]
#![allow(dead_code, non_camel_case_types)]
#![allow(missing_docs, reason = "what the macros write is documented")]

mod deep {
    pub(crate) mod inner {
        #[lightbus::api(name = "deep.inner", events(super::Moved))]
        pub(crate) trait Inner {
            async fn moved_by(&self, who: super::Who) -> super::Who;
        }
    }

    #[derive(lightbus::Event)]
    pub(crate) struct Moved {
        who: Who,
    }

    #[derive(
        lightbus::__private::serde::Serialize,
        lightbus::__private::serde::Deserialize,
        lightbus::JsonSchema,
    )]
    #[serde(crate = "lightbus::__private::serde")]
    #[schemars(crate = "lightbus::schemars")]
    pub(crate) struct Who(u8);
}

mod shadowed {
    struct Option;
    struct Result;
    struct Some;
    struct None;
    struct Ok;
    struct Err;
    struct Box;
    struct Vec;
    struct Send;
    struct Clone;
    struct Into;
    struct S;
    struct E;
    mod std {}
    mod core {}
    mod serde {}
    mod lightbus {}

    #[::lightbus::api(name = "shadowed", events(Happened))]
    trait Shadowed {
        async fn go(&self, a: u8, #[arg(default = 1)] b: u8) -> bool;
    }

    #[derive(::lightbus::Event)]
    #[event(key = "a")]
    struct Happened {
        a: u8,
        #[event(default)]
        b: u8,
    }

    #[derive(::lightbus::ApiError)]
    enum Failed {
        Once { f: u8 },
        Twice(u8),
    }
}

mod facade {
    pub(crate) use lightbus as bus;
}

#[lightbus::api(name = "moved", events(Elsewhere), crate = crate::accepted::places::facade::bus)]
trait MovedCrate {
    async fn go(&self, #[arg(default)] a: String) -> Result<bool, ElsewhereError>;
}

#[derive(lightbus::Event)]
#[event(crate = "crate::accepted::places::facade::bus")]
struct Elsewhere {
    a: u8,
}

#[derive(lightbus::ApiError)]
#[api_error(crate = crate::accepted::places::facade::bus)]
enum ElsewhereError {
    One(u8),
}

#[test]
fn the_macros_work_where_names_mean_something_else() {
    #[lightbus::api(name = "local", events(Local))]
    trait InFunction {
        async fn go(&self) -> Result<(), LocalError>;
    }

    #[derive(lightbus::Event)]
    struct Local {
        a: u8,
    }

    #[derive(Debug, lightbus::ApiError)]
    enum LocalError {
        One,
    }

    assert_eq!(InFunctionClient::contract().events.len(), 1);
    assert_eq!(deep::inner::InnerClient::contract().procedures.len(), 1);
    assert_eq!(MovedCrateClient::contract().name, "moved");
    assert_eq!(LocalError::One.to_string(), "LocalError::One");
}
