//! Hiding secrets.

use serde_json::Value;

use super::{
    schema,
    tree::{Leaf, Tree},
};

const HIDDEN: &str = "<hidden>";

/// Formats a value for people, without secrets and with the names of variables.
pub(super) fn shown(key: &str, leaf: &Leaf, schema: Option<&Value>) -> Value {
    let value = leaf.written.as_ref().unwrap_or(&leaf.value);
    let secret = is_secret(key, schema);
    let text = |text: &str| match () {
        () if is_variable(text) => text.to_owned(),
        () if secret => HIDDEN.to_owned(),
        () => without_password(text),
    };
    match value {
        Value::String(value) => Value::String(text(value)),
        Value::Array(list) => list
            .iter()
            .map(|value| value.as_str().map_or_else(|| value.clone(), |value| text(value).into()))
            .collect(),
        _ if secret && !value.is_null() => HIDDEN.into(),
        value => value.clone(),
    }
}

/// Replaces all secrets of a configuration, and all values of variables, in a text.
pub(super) fn scrubbed(text: &str, tree: &Tree, schema: &Value) -> String {
    // Shorter values are not secret, and occur within words.
    const SHORTEST: usize = 4;
    let mut hide: Vec<(String, String)> = Vec::new();
    tree.each_leaf(&mut Vec::new(), &mut |path, leaf| {
        let key = path.last().copied().unwrap_or_default();
        if let Some(value) = leaf.value.as_str() {
            let shown = shown(key, leaf, schema::at(schema, path));
            let shown = shown.as_str().unwrap_or(HIDDEN);
            if shown != value {
                hide.push((value.to_owned(), shown.to_owned()));
                hide.extend(password(value).map(|secret| (secret.to_owned(), HIDDEN.to_owned())));
            }
        }
        for (name, value) in &leaf.variables {
            hide.push((value.clone(), format!("${{{name}}}")));
        }
    });
    // The longest first, because one may contain another.
    hide.sort_by_key(|(value, _)| std::cmp::Reverse(value.len()));
    let mut text = text.to_owned();
    for (value, shown) in hide.iter().filter(|(value, _)| value.len() >= SHORTEST) {
        text = text.replace(value.as_str(), shown);
    }
    text
}

/// Whether a key holds a secret, judging by its schema or its name.
pub(super) fn is_secret(key: &str, schema: Option<&Value>) -> bool {
    match schema.and_then(|schema| schema::keyword(schema, "writeOnly")) {
        Some(said) => said == true,
        None => {
            let key = key.to_lowercase();
            ["password", "passwd", "secret", "token", "credential", "private_key", "api_key"]
                .iter()
                .any(|word| key.contains(word))
        }
    }
}

/// Whether a text is one placeholder without a default, such as `${PASSWORD}`.
fn is_variable(text: &str) -> bool {
    text.strip_prefix("${").and_then(|text| text.strip_suffix('}')).is_some_and(|name| {
        !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    })
}

/// Removes the password from an address. Returns any other text as it is.
pub(super) fn without_password(text: &str) -> String {
    let mut text = text.to_owned();
    while let Some(secret) = password(&text).map(str::to_owned).filter(|secret| secret != HIDDEN) {
        // Only at this position: a password may also occur in the host's name.
        let Some(at) =
            password(&text).map(|found| found.as_ptr() as usize - text.as_ptr() as usize)
        else {
            break;
        };
        text.replace_range(at..at + secret.len(), HIDDEN);
    }
    text
}

/// Returns the first secret in an address: the password before the host, or the one in the query.
fn password(text: &str) -> Option<&str> {
    let shown = |secret: &&str| !secret.is_empty() && *secret != HIDDEN && !is_variable(secret);
    let (_, rest) = text.split_once("://")?;
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let user = place.rsplit_once('@').map(|(user, _)| user);
    // Without a colon it may be a user or a token, so it is hidden.
    let before_host = user.map(|user| user.split_once(':').map_or(user, |(_, password)| password));
    before_host.filter(shown).or_else(|| {
        query
            .split(['&', '#'])
            .filter_map(|pair| pair.split_once('='))
            .find(|(key, value)| is_secret(key, None) && shown(value))
            .map(|(_, value)| value)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_shown_without_passwords() {
        for (address, shown) in [
            ("redis://h:1/0", "redis://h:1/0"),
            ("redis://:s3cret@h:1/0", "redis://:<hidden>@h:1/0"),
            ("redis://user:h@h:1/0", "redis://user:<hidden>@h:1/0"),
            ("redis://u:p@ss@h", "redis://u:<hidden>@h"),
            ("redis://token@h", "redis://<hidden>@h"),
            ("redis://:${PW}@h", "redis://:${PW}@h"),
            ("redis://:${PW:-dflt}@h", "redis://:<hidden>@h"),
            ("unix:///s?db=1&password=x", "unix:///s?db=1&password=<hidden>"),
            ("redis://:a@h?password=b", "redis://:<hidden>@h?password=<hidden>"),
            ("no address: a@b", "no address: a@b"),
        ] {
            assert_eq!(without_password(address), shown);
        }
    }

    #[test]
    fn secrets_are_known_by_schema_or_name() {
        assert!(is_secret("sasl_password", None) && !is_secret("batch_size", None));
        assert!(is_secret("x", Some(&serde_json::json!({"writeOnly": true}))));
        assert!(!is_secret("token", Some(&serde_json::json!({"writeOnly": false}))));
    }
}
