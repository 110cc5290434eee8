//! For a name that is not known, the nearest that is.

use lightbus_core::{Error, ErrorKind};

/// The candidate that a misspelt name most likely means.
pub(crate) fn nearest<'a>(
    name: &str,
    candidates: impl Iterator<Item = &'a str>,
) -> Option<&'a str> {
    candidates
        .map(|candidate| (strsim::damerau_levenshtein(name, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= candidate.len().max(name.len()).div_ceil(3))
        .min()
        .map(|(_, candidate)| candidate)
}

/// Adds the nearest known key to an error about an unknown one, whose text serde wrote.
pub(crate) fn with_nearest_key(error: Error) -> Error {
    if error.kind() != ErrorKind::Config || error.advice().is_some() {
        return error;
    }
    let text = error.message().to_owned();
    let mut quoted = text.split('`').skip(1).step_by(2);
    let unknown = match quoted.next() {
        Some(name) if text.starts_with("unknown field") || text.starts_with("unknown variant") => {
            name
        }
        _ => return error,
    };
    match nearest(unknown, quoted) {
        Some(known) => error.hint(format!("Did you mean `{known}`?")),
        None => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_recognised_and_nonsense_is_not() {
        assert_eq!(
            nearest("rpc_timout", ["rpc_timeout", "validate"].into_iter()),
            Some("rpc_timeout")
        );
        assert_eq!(nearest("zzzz", ["rpc_timeout", "validate"].into_iter()), None);
    }
}
