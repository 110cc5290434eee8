//! Cron patterns in time zones whose clocks change.
//!
//! The library has one instant for a local time, also where clocks go back and the time comes twice: of
//! the ten-minute beats of that hour only those of one pass are found, and in the second pass instants
//! that lie in the past. So patterns with several times of the day are matched with the offset from UTC
//! that holds now, and from each change on with the one that holds then. A pattern with one time of the
//! day is left to the library: it runs once, in the first pass, or right after an hour that is skipped.

use chrono::{DateTime, FixedOffset, Offset, TimeDelta, TimeZone, Utc};
use croner::{Cron, JobType};

/// The most changes of the clocks, or times that are over, to pass on the way to the next match.
const MOST_CHANGES: usize = 100;

/// Returns when the local time of this zone matches next.
pub(super) fn next<Tz: TimeZone>(
    pattern: &Cron,
    zone: &Tz,
    date: DateTime<Utc>,
) -> Option<DateTime<Utc>> {
    match pattern.determine_job_type() {
        JobType::FixedTime => next_of_day(pattern, zone, date),
        JobType::IntervalWildcard => next_by_offset(pattern, zone, date),
    }
}

/// One time of the day.
fn next_of_day<Tz: TimeZone>(
    pattern: &Cron,
    zone: &Tz,
    date: DateTime<Utc>,
) -> Option<DateTime<Utc>> {
    let mut from = date;
    for _ in 0..MOST_CHANGES {
        let found = pattern.find_next_occurrence(&from.with_timezone(zone), false).ok()?;
        let found = found.with_timezone(&Utc);
        if found > date {
            return Some(found);
        }
        // Its first pass is over, and this is the second.
        from = from.checked_add_signed(TimeDelta::hours(1))?;
    }
    None
}

fn next_by_offset<Tz: TimeZone>(
    pattern: &Cron,
    zone: &Tz,
    date: DateTime<Utc>,
) -> Option<DateTime<Utc>> {
    let offset_at = |at: DateTime<Utc>| zone.offset_from_utc_datetime(&at.naive_utc()).fix();
    let (mut from, mut inclusive) = (date, false);
    for _ in 0..MOST_CHANGES {
        let offset: FixedOffset = offset_at(from);
        let found = pattern.find_next_occurrence(&from.with_timezone(&offset), inclusive).ok()?;
        let found = found.with_timezone(&Utc);
        if offset_at(found) == offset {
            return Some(found);
        }
        // The clocks change before: look on from there.
        from = change(from, found, |at| offset_at(at) != offset);
        inclusive = true;
    }
    None
}

/// Returns the first second after `before` at which this has changed; it has at `after`.
fn change(
    mut before: DateTime<Utc>,
    mut after: DateTime<Utc>,
    has_changed: impl Fn(DateTime<Utc>) -> bool,
) -> DateTime<Utc> {
    while after.timestamp().saturating_sub(before.timestamp()) > 1 {
        let half = after.signed_duration_since(before).num_seconds() / 2;
        let Some(middle) = before.checked_add_signed(TimeDelta::seconds(half)) else { break };
        let middle = DateTime::from_timestamp(middle.timestamp(), 0).unwrap_or(middle);
        if has_changed(middle) {
            after = middle;
        } else {
            before = middle;
        }
    }
    after
}

#[cfg(test)]
mod tests {
    use std::str::FromStr;

    use chrono::{MappedLocalTime, NaiveDate, NaiveDateTime};

    use super::*;

    /// Berlin in 2026: from 1:00 UTC on the 29th of March to 1:00 UTC on the 25th of October two hours
    /// ahead, otherwise one.
    #[derive(Clone, Copy, Debug)]
    struct Berlin;

    const WINTER: i32 = 3600;
    const SUMMER: i32 = 7200;

    impl TimeZone for Berlin {
        type Offset = FixedOffset;

        fn from_offset(_: &FixedOffset) -> Self {
            Self
        }

        fn offset_from_local_date(&self, _: &NaiveDate) -> MappedLocalTime<FixedOffset> {
            MappedLocalTime::None
        }

        fn offset_from_local_datetime(
            &self,
            local: &NaiveDateTime,
        ) -> MappedLocalTime<FixedOffset> {
            let with = |seconds| {
                let offset = FixedOffset::east_opt(seconds).unwrap();
                let utc = *local - TimeDelta::seconds(seconds.into());
                (self.offset_from_utc_datetime(&utc) == offset).then_some(offset)
            };
            match (with(SUMMER), with(WINTER)) {
                (Some(first), Some(second)) => MappedLocalTime::Ambiguous(first, second),
                (Some(one), None) | (None, Some(one)) => MappedLocalTime::Single(one),
                (None, None) => MappedLocalTime::None,
            }
        }

        fn offset_from_utc_date(&self, _: &NaiveDate) -> FixedOffset {
            FixedOffset::east_opt(WINTER).unwrap()
        }

        fn offset_from_utc_datetime(&self, utc: &NaiveDateTime) -> FixedOffset {
            let at = |text: &str| text.parse::<NaiveDateTime>().unwrap();
            let is_summer = (at("2026-03-29T01:00:00")..at("2026-10-25T01:00:00")).contains(utc);
            FixedOffset::east_opt(if is_summer { SUMMER } else { WINTER }).unwrap()
        }
    }

    /// The runs within some hours of UTC.
    fn runs(pattern: &str, from: &str, hours: i64) -> Vec<String> {
        let pattern = Cron::from_str(pattern).unwrap();
        let mut date: DateTime<Utc> = from.parse().unwrap();
        let end = date + TimeDelta::hours(hours);
        let mut runs = Vec::new();
        while let Some(next) = next(&pattern, &Berlin, date).filter(|next| *next < end) {
            assert!(next > date, "{next} is not after {date}");
            runs.push(next.format("%d %H:%M").to_string());
            date = next;
        }
        runs
    }

    #[test]
    fn every_ten_minutes_is_every_ten_minutes_when_clocks_change() {
        for from in ["2026-10-24T23:05:00Z", "2026-03-29T00:05:00Z"] {
            let mut expected: DateTime<Utc> = from.parse().unwrap();
            expected -= TimeDelta::minutes(5);
            let expected = (0..24).map(|_| {
                expected += TimeDelta::minutes(10);
                expected.format("%d %H:%M").to_string()
            });
            assert_eq!(runs("*/10 * * * *", from, 4), expected.collect::<Vec<_>>(), "{from}");
        }
    }

    #[test]
    fn a_time_of_the_day_comes_once() {
        // The first of two, and none in the second hour.
        assert_eq!(runs("30 2 * * *", "2026-10-24T12:00:00Z", 48), ["25 00:30", "26 01:30"]);
        assert_eq!(runs("30 2 * * *", "2026-10-25T01:10:00Z", 30), ["26 01:30"]);
        // Right after the hour that is skipped.
        assert_eq!(runs("30 2 * * *", "2026-03-28T12:00:00Z", 48), ["29 01:00", "30 00:30"]);
    }

    #[test]
    fn what_is_months_away_has_the_offset_of_then() {
        assert_eq!(runs("0 5,6 1 7 *", "2026-01-01T00:00:00Z", 24 * 364), ["01 03:00", "01 04:00"]);
        assert_eq!(runs("0 5 1 12 *", "2026-07-01T00:00:00Z", 24 * 180), ["01 04:00"]);
    }
}
