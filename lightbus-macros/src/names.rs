//! Valid names of APIs, procedures, events and arguments.
//!
//! The rules are those of `lightbus_core::name`, which checks names that come from elsewhere.

use syn::{Ident, ext::IdentExt};

/// Returns a name without the `r#` of a raw identifier.
pub(crate) fn of(ident: &Ident) -> String {
    ident.unraw().to_string()
}

/// Checks the name of an API. The error says what is wrong.
pub(crate) fn check_api(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("an API needs a name: write words separated by dots, as `shop.till`".to_owned());
    }
    if name == "default" || name.starts_with("default.") {
        return Err(format!(
            "`{name}` cannot name an API: `default` stands for all APIs in the configuration. Choose another name"
        ));
    }
    if name.split('.').any(str::is_empty) {
        return Err(format!(
            "`{name}` cannot name an API: write words separated by single dots, as `shop.till`"
        ));
    }
    check_characters("an API", name)
}

/// Checks the name of `what`, a procedure or an event.
pub(crate) fn check_member(what: &str, name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err(format!("{what} needs a name"));
    }
    if name.starts_with('_') {
        return Err(format!(
            "`{name}` cannot name {what}: names that start with an underscore are private. Leave the underscore out"
        ));
    }
    if name.contains('.') {
        return Err(format!(
            "`{name}` cannot name {what}: the dot separates an API from its members. Write `{}`",
            name.replace('.', "_")
        ));
    }
    check_characters(what, name)
}

/// Checks the name of `what`, an argument or a field.
pub(crate) fn check_parameter(what: &str, name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err(format!("{what} needs a name"));
    }
    check_characters(what, name)
}

fn check_characters(what: &str, name: &str) -> Result<(), String> {
    match name.chars().find(|c| c.is_whitespace() || c.is_control() || matches!(c, ':' | '*')) {
        None => Ok(()),
        Some(bad) => Err(format!("`{name}` cannot name {what}: leave {bad:?} out")),
    }
}

/// `UserRegistered` becomes `user_registered`, and `HTTPRequest2Sent` `http_request2_sent`.
pub(crate) fn snake_case(name: &str) -> String {
    let letters: Vec<char> = name.chars().collect();
    let mut snake = String::with_capacity(name.len() + 4);
    for (index, letter) in letters.iter().enumerate() {
        let previous = index.checked_sub(1).map(|before| letters[before]);
        let begins_word = letter.is_uppercase()
            && previous.is_some_and(|previous| {
                let next_is_lower = letters.get(index + 1).is_some_and(|next| next.is_lowercase());
                previous != '_' && (!previous.is_uppercase() || next_is_lower)
            });
        if begins_word {
            snake.push('_');
        }
        snake.extend(letter.to_lowercase());
    }
    snake
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_begin_with_capitals() {
        for (camel, snake) in [
            ("UserRegistered", "user_registered"),
            ("HTTPRequest", "http_request"),
            ("HttpRequest2Sent", "http_request2_sent"),
            ("Already_Split", "already_split"),
            ("A", "a"),
            ("lower", "lower"),
            ("ÄrgerMit", "ärger_mit"),
        ] {
            assert_eq!(snake_case(camel), snake);
        }
    }

    #[test]
    fn good_and_bad_names() {
        for good in ["auth", "shop.till", "défault", "a-b_c.d"] {
            check_api(good).unwrap();
        }
        for bad in ["", "default", "default.x", "a..b", ".a", "a b", "a:b", "a.*"] {
            assert!(check_api(bad).is_err(), "{bad}");
        }
        for bad in ["", "_x", "a.b", "a b", "*"] {
            assert!(check_member("a procedure", bad).is_err(), "{bad}");
        }
        check_parameter("an argument", "_x").unwrap();
        for bad in ["", "a b", "a:b"] {
            assert!(check_parameter("an argument", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn raw_identifiers_lose_their_mark() {
        assert_eq!(of(&syn::parse_quote!(r#type)), "type");
    }
}
