//! The tables of the view and the text, as cells.

use super::sample::Sample;

/// How a column is aligned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Align {
    Left,
    Right,
}

pub(super) struct Table {
    pub(super) title: String,
    pub(super) columns: Vec<(&'static str, Align)>,
    pub(super) rows: Vec<Cells>,
}

pub(super) struct Cells {
    pub(super) cells: Vec<String>,
    /// Whether the row shows a problem: failed calls, retried events, dead letters, calls without a worker.
    pub(super) wrong: bool,
}

/// The number of tables.
pub(super) const TABLES: usize = 5;

use Align::{Left, Right};

pub(super) fn tables(sample: &Sample) -> [Table; TABLES] {
    [processes(sample), apis(sample), procedures(sample), events(sample), groups(sample)]
}

fn processes(sample: &Sample) -> Table {
    let rows = sample.processes.iter().map(|row| Cells {
        cells: vec![
            row.service.clone(),
            row.process.clone(),
            some(&row.apis),
            some(&row.listens_to),
            age(row.heard_seconds_ago),
        ],
        wrong: false,
    });
    Table {
        title: "Processes".to_owned(),
        columns: vec![
            ("service", Left),
            ("process", Left),
            ("APIs", Left),
            ("listens to", Left),
            ("heard of", Right),
        ],
        rows: rows.collect(),
    }
}

fn apis(sample: &Sample) -> Table {
    let rows = sample.apis.iter().map(|row| Cells {
        cells: vec![
            row.api.clone(),
            row.processes.to_string(),
            number(row.calls_queued),
            number(row.events_stored),
        ],
        wrong: row.calls_queued.is_some_and(|queued| queued > 0) && row.processes == 0,
    });
    Table {
        title: "APIs".to_owned(),
        columns: vec![("API", Left), ("processes", Right), ("queued", Right), ("events", Right)],
        rows: rows.collect(),
    }
}

fn procedures(sample: &Sample) -> Table {
    let rows = sample.procedures.iter().map(|row| Cells {
        cells: vec![
            row.procedure.clone(),
            rate(row.calls_per_second),
            rate(row.failed_per_second),
            row.under_way.to_string(),
            time(row.mean_ms),
            time(row.p95_ms),
            time(row.longest_ms),
        ],
        wrong: row.failed_per_second > 0.0,
    });
    Table {
        title: "Procedures".to_owned(),
        columns: vec![
            ("procedure", Left),
            ("calls/s", Right),
            ("fail/s", Right),
            ("open", Right),
            ("mean", Right),
            ("p95", Right),
            ("max", Right),
        ],
        rows: rows.collect(),
    }
}

fn events(sample: &Sample) -> Table {
    let rows = sample.events.iter().map(|row| Cells {
        cells: vec![
            row.event.clone(),
            rate(row.fired_per_second),
            rate(row.handled_per_second),
            rate(row.tried_again_per_second),
            row.under_way.to_string(),
            time(row.p95_ms),
        ],
        wrong: row.tried_again_per_second > 0.0,
    });
    Table {
        title: "Events".to_owned(),
        columns: vec![
            ("event", Left),
            ("fired/s", Right),
            ("done/s", Right),
            ("again/s", Right),
            ("open", Right),
            ("p95", Right),
        ],
        rows: rows.collect(),
    }
}

fn groups(sample: &Sample) -> Table {
    let rows = sample.groups.iter().map(|row| {
        let more = if row.more_dead_letters { "+" } else { "" };
        let dead = row.dead_letters.map(|count| format!("{count}{more}"));
        Cells {
            cells: vec![
                row.group.clone(),
                row.api.clone(),
                number(row.consumers),
                number(row.waiting),
                row.pending.to_string(),
                row.oldest_seconds.map_or_else(String::new, age),
                dead.unwrap_or_default(),
            ],
            wrong: row.dead_letters.is_some_and(|count| count > 0),
        }
    });
    Table {
        title: "Listeners".to_owned(),
        columns: vec![
            ("group", Left),
            ("API", Left),
            ("consumers", Right),
            ("waiting", Right),
            ("pending", Right),
            ("oldest", Right),
            ("dead letters", Right),
        ],
        rows: rows.collect(),
    }
}

/// The first name, and how many more there are.
fn some(names: &[String]) -> String {
    match names {
        [] => String::new(),
        [one] => one.clone(),
        [one, more @ ..] => format!("{one} +{}", more.len()),
    }
}

fn number(number: Option<impl ToString>) -> String {
    number.map_or_else(String::new, |number| number.to_string())
}

fn rate(rate: f64) -> String {
    if rate > 0.0 && rate < 99.95 { format!("{rate:.1}") } else { format!("{rate:.0}") }
}

fn time(milliseconds: Option<f64>) -> String {
    match milliseconds {
        None => String::new(),
        Some(ms) if ms < 10.0 => format!("{ms:.1} ms"),
        Some(ms) if ms < 10_000.0 => format!("{ms:.0} ms"),
        Some(ms) => age(ms / 1000.0),
    }
}

pub(super) fn age(seconds: f64) -> String {
    match seconds {
        seconds if seconds < 100.0 => format!("{seconds:.0} s"),
        seconds if seconds < 6_000.0 => format!("{:.0} min", seconds / 60.0),
        seconds => format!("{:.0} h", seconds / 3_600.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_short() {
        assert_eq!(
            [0.0, 0.26, 12.34, 99.96, 1234.5].map(rate),
            ["0", "0.3", "12.3", "100", "1234"]
        );
        let times = [Some(0.42), Some(123.4), Some(61_000.0), None].map(time);
        assert_eq!(times, ["0.4 ms", "123 ms", "61 s", ""]);
        assert_eq!([3.2, 600.0, 7_200.0].map(age), ["3 s", "10 min", "2 h"]);
        let names = ["a", "b", "c"].map(str::to_owned);
        assert_eq!(
            (some(&names), some(&names[..1]), some(&[])),
            ("a +2".into(), "a".into(), String::new())
        );
    }
}
