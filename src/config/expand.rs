//! Expanding `${VAR}` and `${VAR:-default}` in values.
//!
//! A value that stands before the host of an address, or in its query, is percent-encoded: a password
//! may have any characters.

use std::borrow::Cow;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use super::{
    environment::Environment,
    schema,
    tree::{Leaf, Tree},
    typed::typed,
};

/// Why a value cannot be expanded.
#[derive(Debug, PartialEq)]
pub(crate) struct Problem {
    pub(crate) message: String,
    pub(crate) hint: &'static str,
}

/// Expands variables in all values of a tree. Fails with the path of a value that cannot be expanded,
/// and why.
pub(crate) fn expand(
    tree: &mut Tree,
    environment: &Environment,
    schema: Option<&Value>,
) -> Result<(), (Vec<String>, Problem)> {
    match tree {
        Tree::Mapping(entries, _) => {
            for (key, value) in entries {
                let below = schema.and_then(|schema| schema::child(schema, key));
                expand(value, environment, below).map_err(|(mut path, problem)| {
                    path.insert(0, key.clone());
                    (path, problem)
                })?;
            }
            Ok(())
        }
        Tree::Leaf(leaf) => {
            expand_leaf(leaf, environment, schema).map_err(|problem| (Vec::new(), problem))
        }
    }
}

fn expand_leaf(
    leaf: &mut Leaf,
    environment: &Environment,
    schema: Option<&Value>,
) -> Result<(), Problem> {
    if let Value::String(text) = &leaf.value {
        check_address(text)?;
    }
    // Values of variables are not expanded again.
    if matches!(leaf.origin, super::Origin::Environment(_)) {
        return Ok(());
    }
    let mut variables = Vec::new();
    let filled = match &leaf.value {
        Value::String(text) => filled(text, environment, &mut variables)?.map(|filled| {
            if filled.whole {
                typed(&filled.text, schema, false)
            } else {
                Value::String(filled.text)
            }
        }),
        Value::Array(list) => {
            let mut changed = false;
            let mut out = Vec::with_capacity(list.len());
            for value in list {
                let text = value.as_str();
                let text =
                    text.map(|text| filled(text, environment, &mut variables)).transpose()?;
                match text.flatten() {
                    Some(filled) => {
                        changed = true;
                        out.push(Value::String(filled.text));
                    }
                    None => out.push(value.clone()),
                }
            }
            changed.then_some(Value::Array(out))
        }
        _ => None,
    };
    if let Some(filled) = filled {
        leaf.written = Some(std::mem::replace(&mut leaf.value, filled));
        leaf.variables = variables;
    }
    Ok(())
}

struct Filled {
    text: String,
    /// The whole value is one placeholder.
    whole: bool,
}

/// Expands variables in a text. Returns `None` if there are none.
fn filled(
    text: &str,
    environment: &Environment,
    variables: &mut Vec<(String, String)>,
) -> Result<Option<Filled>, Problem> {
    if !text.contains("${") {
        return Ok(None);
    }
    let mut out = String::with_capacity(text.len());
    let mut whole = false;
    // What stands before the placeholder, without others.
    let mut before = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        if rest[..at].ends_with('$') {
            // `$${` stands for `${` itself.
            out.push_str(&rest[..at - 1]);
            out.push_str("${");
            before.push_str(&rest[..at]);
            rest = &rest[at + 2..];
            continue;
        }
        out.push_str(&rest[..at]);
        let Some(length) = rest[at..].find('}') else {
            return Err(Problem {
                message: "`${` has no closing brace".to_owned(),
                hint: "Write ${VARIABLE}, or $${ for these characters themselves",
            });
        };
        let (name, value) = variable(&rest[at + 2..at + length], environment)?;
        whole = at == 0 && length + 1 == text.len();
        before.push_str(&rest[..at]);
        rest = &rest[at + length + 1..];
        let encoded = match reserved_at(&before, &without_placeholders(rest)) {
            Some(reserved) => Cow::from(utf8_percent_encode(&value, reserved)),
            None => Cow::from(&value),
        };
        out.push_str(&encoded);
        if encoded != value {
            variables.push((name.to_owned(), encoded.into_owned()));
        }
        variables.push((name.to_owned(), value));
    }
    out.push_str(rest);
    Ok(Some(Filled { text: out, whole }))
}

/// Which characters are percent-encoded in the values of variables, all but unreserved ones (RFC 3986,
/// section 2.3).
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// The same, where the value may be `user:password`.
const RESERVED_BUT_COLON: &AsciiSet = &RESERVED.remove(b':');
/// What ends the host of an address.
const AFTER_HOST: [char; 3] = ['/', '?', '#'];

/// Which characters are encoded in a value that stands between these: `None` if it stands in no address,
/// or where it may be more than one part of an address, such as a host with its port.
fn reserved_at(before: &str, behind: &str) -> Option<&'static AsciiSet> {
    let (_, before) = before.split_once("://")?;
    if before.contains('?') {
        return Some(RESERVED);
    }
    let behind = behind.split(AFTER_HOST).next().unwrap_or_default();
    if before.contains(AFTER_HOST) || !behind.contains('@') {
        return None;
    }
    let user = behind.rsplit_once('@').map_or("", |(user, _)| user);
    Some(if before.contains(':') || user.contains(':') { RESERVED } else { RESERVED_BUT_COLON })
}

/// Removes placeholders from a text.
fn without_placeholders(text: &str) -> String {
    let mut parts = text.split("${");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |out, part| out + part.split_once('}').map_or("", |(_, behind)| behind))
}

/// Refuses an address whose password has characters that end the host: its rest would be taken for the
/// host, and appear in errors.
fn check_address(text: &str) -> Result<(), Problem> {
    let text = without_placeholders(text);
    let Some((scheme, rest)) = text.split_once("://") else { return Ok(()) };
    let behind = rest.find(AFTER_HOST).map_or("", |end| &rest[end..]);
    let behind = if behind.starts_with('?') { "" } else { behind.split('?').next().unwrap_or("") };
    if scheme.ends_with("unix") || !behind.contains('@') {
        return Ok(());
    }
    Err(Problem {
        message: "the address has an `@` behind its host".to_owned(),
        hint: "In a password, write %2F for /, %3F for ?, %23 for # and %40 for @, or write ${VARIABLE}, whose value is encoded",
    })
}

/// Returns the name and the value of a variable.
fn variable<'t>(inside: &'t str, environment: &Environment) -> Result<(&'t str, String), Problem> {
    let (name, default) = match inside.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (inside, None),
    };
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) || !name.chars().all(fits)
    {
        return Err(Problem {
            message: format!("`${{{name}}}` does not name a variable"),
            hint: "A name is letters, digits and underscores: ${VARIABLE} or ${VARIABLE:-default}",
        });
    }
    match (environment.get(name), default) {
        (Some(value), None) => Ok((name, value.to_owned())),
        // As in a shell, an empty variable counts as unset here.
        (Some(value), Some(_)) if !value.is_empty() => Ok((name, value.to_owned())),
        (_, Some(default)) => Ok((name, default.to_owned())),
        (None, None) => Err(Problem {
            message: format!("the environment variable `{name}` is not set"),
            hint: "Set it, or write ${VARIABLE:-default}",
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(template: &str) -> Result<String, Problem> {
        let environment = Environment::new([("A", "1"), ("EMPTY", ""), ("TRICK", "${A}")]);
        let filled = filled(template, &environment, &mut Vec::new())?;
        Ok(filled.map_or_else(|| template.to_owned(), |f| f.text))
    }

    #[test]
    fn variables_defaults_and_escapes() {
        for (template, result) in [
            ("plain $A {A}", "plain $A {A}"),
            ("${A}", "1"),
            ("x${A}y${A}z", "x1y1z"),
            ("${NO:-dflt}", "dflt"),
            ("${NO:-}", ""),
            ("${NO:-a:-b}", "a:-b"),
            ("${A:-dflt}", "1"),
            ("${EMPTY:-dflt}", "dflt"),
            ("${EMPTY}", ""),
            ("$${A}", "${A}"),
            ("$${A}${A}", "${A}1"),
            ("${TRICK}", "${A}"),
            ("☃${A}☃", "☃1☃"),
        ] {
            assert_eq!(text(template).as_deref(), Ok(result), "{template}");
        }
    }

    #[test]
    fn values_within_addresses_are_encoded_where_they_are_one_part() {
        let environment = Environment::new([
            ("PW", "ab@hunter2#x:/?%"),
            ("BOTH", "admin:a@b"),
            ("HOST", "h:6379"),
            ("PLAIN", "Az09-._~"),
        ]);
        for (template, result) in [
            ("redis://:${PW}@host", "redis://:ab%40hunter2%23x%3A%2F%3F%25@host"),
            (
                "redis://${PLAIN}:${PW}@${HOST}/0",
                "redis://Az09-._~:ab%40hunter2%23x%3A%2F%3F%25@h:6379/0",
            ),
            ("redis://${BOTH}@${HOST}", "redis://admin:a%40b@h:6379"),
            ("redis://${BOTH}:x@h", "redis://admin%3Aa%40b:x@h"),
            ("redis://${NO:-:p/q}@h", "redis://:p%2Fq@h"),
            ("redis://h/0?password=${PW}", "redis://h/0?password=ab%40hunter2%23x%3A%2F%3F%25"),
            ("amqp://h/${HOST}", "amqp://h/h:6379"),
            ("${HOST}", "h:6379"),
            ("a ${BOTH} b", "a admin:a@b b"),
        ] {
            let filled = filled(template, &environment, &mut Vec::new()).unwrap().unwrap();
            assert_eq!(filled.text, result, "{template}");
        }
    }

    #[test]
    fn an_address_with_a_password_that_ends_its_host_is_refused() {
        for address in ["redis://:ab@hunter2#x@host", "redis://:a/b@host", "redis://u:a/${V}@h/0"] {
            let problem = check_address(address).unwrap_err();
            assert!(problem.message.contains("behind its host"), "{address}: {problem:?}");
        }
        for address in [
            "redis://:a@b@host/0",
            "redis://h/0?user=a@b",
            "unix:///a@b",
            "redis+unix:///a@b",
            "a@b",
            "redis://:${PW:-a/b}@h",
        ] {
            assert_eq!(check_address(address), Ok(()), "{address}");
        }
    }

    #[test]
    fn what_cannot_be_filled_in_says_why() {
        for (template, why) in [
            ("${NO}", "`NO` is not set"),
            ("${A", "no closing brace"),
            ("${}", "does not name a variable"),
            ("${a b}", "does not name a variable"),
            ("${1}", "does not name a variable"),
        ] {
            let problem = text(template).unwrap_err();
            assert!(problem.message.contains(why), "{template}: {problem:?}");
        }
    }
}
