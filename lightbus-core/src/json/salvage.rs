//! Reads what can be read of a message that is cut off, or not quite JSON.
//!
//! A message that cannot be read may still name who waits for it. Members are read one by one, and what
//! stands before the first unreadable byte counts. Scanning is bounded, whatever the message contains.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::Text;
use crate::Name;

/// How many places that look like the start of an object are tried.
const ATTEMPTS: usize = 8;

/// Returns the members of these names that are texts and not empty, of the object that `raw` begins
/// with, up to the first byte that cannot be read.
#[must_use]
pub fn salvage_texts<const N: usize>(raw: &[u8], names: [&str; N]) -> [Option<Name>; N] {
    let mut found = [const { None }; N];
    let mut rest = raw.trim_ascii_start();
    let mut opening = b'{';
    while let Some(inside) = rest.strip_prefix(&[opening]) {
        let Some((name, after)) = next::<Text<'_>>(inside) else { break };
        let Some(after) = after.trim_ascii_start().strip_prefix(b":") else { break };
        let Some((value, after)) = next::<&RawValue>(after) else { break };
        if let Some(index) = names.iter().position(|wanted| *wanted == name.0)
            && let Ok(text) = serde_json::from_str::<Text<'_>>(value.get())
        {
            found[index] = Some(Name::from(text)).filter(|text| !text.is_empty());
        }
        rest = after.trim_ascii_start();
        opening = b',';
    }
    found
}

/// Like [`salvage_texts`], of the last member `section` whose object has all of the names, wherever in
/// the message it is.
#[must_use]
pub fn salvage_section<const N: usize>(
    raw: &[u8],
    section: &str,
    names: [&str; N],
) -> Option<[Name; N]> {
    let key = format!("\"{section}\"");
    let mut end = raw.len();
    for _ in 0..ATTEMPTS {
        end = raw[..end].windows(key.len()).rposition(|window| window == key.as_bytes())?;
        let rest = raw.get(end.saturating_add(key.len())..).unwrap_or_default();
        let Some(object) = rest.trim_ascii_start().strip_prefix(b":") else { continue };
        let found = salvage_texts(object, names);
        if found.iter().all(Option::is_some) {
            return Some(found.map(Option::unwrap_or_default));
        }
    }
    None
}

/// Reads one value, and returns it with what follows.
fn next<'a, T: Deserialize<'a>>(raw: &'a [u8]) -> Option<(T, &'a [u8])> {
    let mut values = serde_json::Deserializer::from_slice(raw).into_iter();
    let value = values.next()?.ok()?;
    Some((value, raw.get(values.byte_offset()..)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(raw: &str) -> Option<Name> {
        salvage_section(raw.as_bytes(), "metadata", ["id"]).map(|[id]| id)
    }

    #[test]
    fn members_before_the_first_unreadable_byte_are_found() {
        for raw in [
            r#"{"id": "1", "value": NaN}"#,
            r#"{"v":1,"id":"\u0031","value":"cut"#,
            r#" { "x" : [{"id": "2"}], "id" : "1" , "y"#,
            r#"{"id":"1""#,
            r#"{"id":"2","id":"1","other":"3"#,
        ] {
            assert_eq!(salvage_texts(raw.as_bytes(), ["id"]), [Some("1".into())], "{raw}");
        }
        for raw in
            ["", "{", "[]", r#"{"id":"1"#, r#"{"x":NaN,"id":"1"}"#, r#"{"id":1}"#, r#"{"id":""}"#]
        {
            assert_eq!(salvage_texts(raw.as_bytes(), ["id"]), [None], "{raw}");
        }
    }

    #[test]
    fn a_section_is_found_from_the_end_of_a_message() {
        let mine = Some("1".into());
        assert_eq!(id(r#"{"kwargs":{"result":NaN},"metadata":{"id":"1"}}"#), mine);
        assert_eq!(id(r#"{"kwargs":{"metadata":{"id":"2"},"x":NaN},"metadata":{"id":"1","#), mine);
        assert_eq!(id(r#"{"metadata":{"id":"1"},"kwargs":{"result":"metadata"#), mine);
        assert_eq!(id(r#"{"metadata":{"id":"1"},"kwargs":["metadata","#), mine);
        assert_eq!(id(&format!("{{{}", "\"metadata\":".repeat(100_000))), None);
        assert_eq!(id("\"metadata\""), None);
    }
}
