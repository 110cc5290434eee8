//! Reads times from the command line.

use std::time::{Duration, SystemTime};

use chrono::{DateTime, Utc};
use lightbus::Start;

/// Reads `new`, `earliest`, or a time.
pub(crate) fn start(text: &str) -> Result<Start, String> {
    match text {
        "new" => Ok(Start::New),
        "earliest" => Ok(Start::Earliest),
        text => parse(text).map(Start::Since),
    }
}

/// Reads a time: `2026-01-31T12:00:00Z`, or an age such as `30s`, `10m`, `2h`, `7d`.
pub(crate) fn parse(text: &str) -> Result<SystemTime, String> {
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Ok(time.with_timezone(&Utc).into());
    }
    ago(text).and_then(|ago| SystemTime::now().checked_sub(ago)).ok_or_else(|| {
        format!("`{text}` is not a time: write 2026-01-31T12:00:00Z, or an age such as 10m")
    })
}

fn ago(text: &str) -> Option<Duration> {
    let unit = text.chars().last()?;
    let number: u64 = text.strip_suffix(unit)?.parse().ok()?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        'd' => 86_400,
        _ => return None,
    };
    Some(Duration::from_secs(number.checked_mul(seconds)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_a_date_or_an_age() {
        let epoch = parse("1970-01-01T01:00:00+01:00");
        assert_eq!(epoch, Ok(SystemTime::UNIX_EPOCH));
        let before = SystemTime::now() - Duration::from_secs(121);
        assert!(parse("2m").is_ok_and(|time| time > before && time < SystemTime::now()));
        for wrong in ["", "m", "10", "10x", "yesterday", "99999999999999999999d", "-1m"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
