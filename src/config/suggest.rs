//! Suggestions for unknown names.

/// Returns the candidate that a misspelt name most likely means.
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
