//! Any name in the characters that every broker takes.

use crate::Name;

/// Writes a name in ASCII letters, digits, `-` and `_`: other brokers' names of queues, topics and keys
/// take more, but not all the same.
///
/// A dot becomes `-`; `-` and `_` become `_-` and `__`; any other byte of the UTF-8 becomes `_` and two
/// hexadecimal digits. `shop.till` is `shop-till`. Two names never become one
/// ([`from_safe_name`]).
#[must_use]
pub fn safe_name(name: &str) -> Name {
    let mut safe = String::with_capacity(name.len() + 8);
    for byte in name.bytes() {
        match byte {
            b'.' => safe.push('-'),
            b'-' | b'_' => {
                safe.push('_');
                safe.push(char::from(byte));
            }
            byte if byte.is_ascii_alphanumeric() => safe.push(char::from(byte)),
            byte => {
                safe.push('_');
                for digit in [byte >> 4, byte & 15] {
                    safe.push(char::from_digit(digit.into(), 16).unwrap_or('0'));
                }
            }
        }
    }
    safe.into()
}

/// Reads what [`safe_name`] wrote; `None` for any other text.
#[must_use]
pub fn from_safe_name(safe: &str) -> Option<String> {
    let mut name = Vec::with_capacity(safe.len());
    let mut bytes = safe.bytes();
    while let Some(byte) = bytes.next() {
        name.push(match byte {
            b'-' => b'.',
            b'_' => match bytes.next()? {
                escaped @ (b'-' | b'_') => escaped,
                high => {
                    let digit = |byte: u8| char::from(byte).to_digit(16);
                    let value = digit(high)? * 16 + digit(bytes.next()?)?;
                    u8::try_from(value).ok()?
                }
            },
            byte if byte.is_ascii_alphanumeric() => byte,
            _ => return None,
        });
    }
    String::from_utf8(name).ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn every_name_becomes_a_safe_one_and_back() {
        for (name, safe) in [
            ("auth", "auth"),
            ("shop.till", "shop-till"),
            ("shop-till", "shop_-till"),
            ("shop_till", "shop__till"),
            ("a._b", "a-__b"),
            ("a_.b", "a__-b"),
            ("größe", "gr_c3_b6_c3_9fe"),
            ("a b/*>", "a_20b_2f_2a_3e"),
            ("", ""),
        ] {
            assert_eq!(&*safe_name(name), safe);
            assert_eq!(from_safe_name(safe).unwrap(), name);
        }
        for other in ["a.b", "_", "_c3", "_zz", "a_2", "a b"] {
            assert_eq!(from_safe_name(other), None, "{other}");
        }
    }
}
