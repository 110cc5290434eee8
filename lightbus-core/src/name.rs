//! What APIs, procedures and events may be called.

use crate::{Error, ErrorKind, Result};

/// Checks the name of an API: not empty, neither `default` nor below it, no part empty or with
/// white space or control characters.
///
/// Python's Lightbus refuses `default` because the configuration uses it for all other APIs.
///
/// # Errors
///
/// [`ErrorKind::Config`] with the rule that is broken.
pub fn check_api(name: &str) -> Result<()> {
    if name == "default" || name.starts_with("default.") {
        return Err(refused("API", name, "`default` stands for all APIs in the configuration"));
    }
    if name.split('.').any(str::is_empty) {
        return Err(refused("API", name, "a name is words separated by single dots"));
    }
    check_characters("API", name)
}

/// Checks the name of a procedure or an event: not empty, no leading underscore, no dot, neither
/// white space nor control characters nor `:` nor `*`.
///
/// # Errors
///
/// [`ErrorKind::Config`] with the rule that is broken.
pub fn check_member(what: &'static str, name: &str) -> Result<()> {
    if name.is_empty() {
        return Err(refused(what, name, "a name cannot be empty"));
    }
    if name.starts_with('_') {
        return Err(refused(what, name, "names that start with an underscore are private"));
    }
    if name.contains('.') {
        return Err(refused(what, name, "the dot separates an API from its members"));
    }
    check_characters(what, name)
}

/// Splits `shop.till.total` into the API `shop.till` and the member `total`.
///
/// # Errors
///
/// [`ErrorKind::Config`] if there is no dot, or nothing on one side of the last one.
pub fn split(path: &str) -> Result<(&str, &str)> {
    match path.rsplit_once('.') {
        Some((api, member)) if !api.is_empty() && !member.is_empty() => Ok((api, member)),
        _ => Err(Error::new(ErrorKind::Config, format!("`{path}` names no member of an API"))
            .hint(
                "Write the API's name, a dot, and the procedure or event, as `auth.check_password`",
            )),
    }
}

fn check_characters(what: &str, name: &str) -> Result<()> {
    match name.chars().find(|c| c.is_whitespace() || c.is_control() || matches!(c, ':' | '*')) {
        None => Ok(()),
        Some(bad) => Err(refused(what, name, &format!("{bad:?} is not allowed in a name"))),
    }
}

fn refused(what: &str, name: &str, why: &str) -> Error {
    Error::new(ErrorKind::Config, format!("`{name}` cannot name an {what}: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_and_bad_names() {
        for good in ["auth", "shop.till", "défault", "a-b_c.d"] {
            check_api(good).unwrap();
        }
        for bad in ["", "default", "default.x", "a..b", ".a", "a b", "a:b", "a.*"] {
            assert!(check_api(bad).is_err(), "{bad}");
        }
        for bad in ["", "_x", "a.b", "a b", "*"] {
            assert!(check_member("procedure", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_last_dot_separates() {
        assert_eq!(split("shop.till.total").unwrap(), ("shop.till", "total"));
        for bad in ["total", ".total", "shop.", ""] {
            assert!(split(bad).is_err(), "{bad}");
        }
    }
}
