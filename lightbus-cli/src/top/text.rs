//! A sample as plain text, for pipes.

use std::fmt::Write;

use super::{
    sample::Sample,
    tables::{Align, Table, age, tables},
};

pub(super) fn text(sample: &Sample) -> String {
    let mut text = header(sample);
    text.push('\n');
    for note in &sample.notes {
        let _ = writeln!(text, "{note}");
    }
    for table in tables(sample) {
        let _ = writeln!(text, "\n{} ({})", table.title, table.rows.len());
        if !table.rows.is_empty() {
            lines(&table, &mut text);
        }
    }
    text.truncate(text.trim_end().len());
    text
}

pub(super) fn header(sample: &Sample) -> String {
    format!(
        "{}   for {}, rates of {}   services {}, processes {}, APIs {}",
        sample.bus.join(", "),
        age(sample.watched_seconds),
        age(sample.rates_of_seconds),
        sample.services,
        sample.processes.len(),
        sample.apis.len(),
    )
}

fn lines(table: &Table, text: &mut String) {
    let width = |index: usize, title: &str| {
        let cells = table.rows.iter().map(|row| row.cells[index].chars().count());
        cells.max().unwrap_or(0).max(title.len())
    };
    let widths: Vec<_> =
        table.columns.iter().enumerate().map(|(index, (title, _))| width(index, title)).collect();
    let mut line = |cells: &[&str]| {
        let mut line = String::new();
        for ((cell, width), (_, align)) in cells.iter().zip(&widths).zip(&table.columns) {
            let _ = match align {
                Align::Left => write!(line, "  {cell:width$}"),
                Align::Right => write!(line, "  {cell:>width$}"),
            };
        }
        let _ = writeln!(text, "{}", line.trim_end());
    };
    line(&table.columns.iter().map(|(title, _)| *title).collect::<Vec<_>>());
    for row in &table.rows {
        line(&row.cells.iter().map(String::as_str).collect::<Vec<_>>());
    }
}
