//! Draws the view.

use ratatui::{
    Frame,
    layout::{Alignment, Constraint, Layout, Rect},
    style::{Color, Modifier, Style, Stylize},
    text::{Line, Text},
    widgets::{Block, Cell, Paragraph, Row, Table as Widget, Wrap},
};

use super::{
    sample::{Sample, Sort},
    tables::{Align, TABLES, Table, tables},
    terminal::Key,
    text::header,
};

/// A narrower or lower window shows one table at a time.
const NARROW: u16 = 100;
const LOW: u16 = 15;
/// The greatest width of a column, unless its table has the whole window.
const WIDEST: u16 = 32;

/// What the user has chosen.
#[derive(Clone, Debug, Default)]
pub(super) struct Look {
    selected: usize,
    scrolled: [usize; TABLES],
    enlarged: bool,
    pub(super) paused: bool,
    pub(super) sort: Sort,
    colour: bool,
}

impl Look {
    /// The initial choice, with or without colours.
    pub(super) fn new(colour: bool) -> Self {
        Self { colour, ..Self::default() }
    }

    /// Handles a key. Returns `false` if it closes the view.
    pub(super) fn follow(&mut self, key: Key) -> bool {
        let scrolled = &mut self.scrolled[self.selected];
        match key {
            Key::Quit => return false,
            Key::Pause => self.paused = !self.paused,
            Key::Next => self.selected = (self.selected + 1) % TABLES,
            Key::Previous => self.selected = (self.selected + TABLES - 1) % TABLES,
            Key::Up => *scrolled = scrolled.saturating_sub(1),
            Key::Down => *scrolled += 1,
            Key::Sort => {
                self.sort = match self.sort {
                    Sort::Name => Sort::Busiest,
                    Sort::Busiest => Sort::Name,
                }
            }
            Key::Enlarge => self.enlarged = !self.enlarged,
            Key::Redraw => {}
        }
        true
    }

    fn coloured(&self, style: Style, colour: Color) -> Style {
        if self.colour { style.fg(colour) } else { style }
    }
}

/// Draws a sample, or that none has been read yet. `trouble` is why there is no newer one.
pub(super) fn draw(
    frame: &mut Frame<'_>,
    look: &mut Look,
    sample: Option<&Sample>,
    trouble: Option<&str>,
) {
    let notes: Vec<Line<'_>> =
        trouble
            .map(|trouble| Line::styled(trouble, look.coloured(Style::new().bold(), Color::Red)))
            .into_iter()
            .chain(sample.iter().flat_map(|sample| &sample.notes).map(|note| {
                Line::styled(note.as_str(), look.coloured(Style::new(), Color::Yellow))
            }))
            .collect();
    let width = usize::from(frame.area().width.max(1));
    let lines: usize = notes.iter().map(|note| note.width().div_ceil(width)).sum();
    let lines = u16::try_from(lines).unwrap_or(u16::MAX).min(frame.area().height / 3);
    let [title, above, middle, below] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(lines),
        Constraint::Fill(1),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    let text = sample.map_or_else(|| "reading the bus …".to_owned(), header);
    let state = if look.paused { "PAUSED  " } else { "" };
    frame.render_widget(Line::from(format!("{state}lightbus top   {text}")).bold(), title);
    frame.render_widget(Paragraph::new(notes).wrap(Wrap { trim: false }), above);
    if let Some(sample) = sample {
        draw_tables(frame, look, &tables(sample), middle);
    }
    let sorted = match look.sort {
        Sort::Name => "by name",
        Sort::Busiest => "busiest first",
    };
    let keys =
        format!(" q quit   p pause   Tab table   ↑↓ scroll   Enter enlarge   s sort ({sorted})");
    frame.render_widget(Line::from(keys).style(Style::new().add_modifier(Modifier::DIM)), below);
}

fn draw_tables(frame: &mut Frame<'_>, look: &mut Look, all: &[Table; TABLES], area: Rect) {
    if look.enlarged || area.width < NARROW || area.height < LOW {
        draw_table(frame, look, look.selected, &all[look.selected], area, u16::MAX);
        return;
    }
    let [first, second, third] =
        Layout::vertical([Constraint::Fill(4), Constraint::Fill(4), Constraint::Fill(3)])
            .areas(area);
    let two =
        |area| Layout::horizontal([Constraint::Percentage(60), Constraint::Fill(1)]).areas(area);
    let [processes, apis] = two(first);
    let [procedures, events] =
        Layout::horizontal([Constraint::Percentage(53), Constraint::Fill(1)]).areas(second);
    for (index, area) in [processes, apis, procedures, events, third].into_iter().enumerate() {
        draw_table(frame, look, index, &all[index], area, WIDEST);
    }
}

fn draw_table(
    frame: &mut Frame<'_>,
    look: &mut Look,
    index: usize,
    table: &Table,
    area: Rect,
    widest: u16,
) {
    let selected = look.selected == index;
    // Without the frame and the titles.
    let room = usize::from(area.height.saturating_sub(3));
    let scrolled = look.scrolled[index].min(table.rows.len().saturating_sub(room));
    look.scrolled[index] = scrolled;
    let count = match table.rows.len() {
        rows if rows > room => {
            format!(
                " {} ({}–{} of {rows}) ",
                table.title,
                scrolled + 1,
                (scrolled + room).min(rows)
            )
        }
        rows => format!(" {} ({rows}) ", table.title),
    };
    let border = if selected {
        look.coloured(Style::new().bold(), Color::Cyan)
    } else {
        Style::new().add_modifier(Modifier::DIM)
    };
    let align = |align| if align == Align::Left { Alignment::Left } else { Alignment::Right };
    let cell = |text: &str, column: usize| {
        Cell::from(Text::from(text.to_owned()).alignment(align(table.columns[column].1)))
    };
    let titles = table.columns.iter().enumerate().map(|(column, (title, _))| cell(title, column));
    let rows = table.rows.iter().skip(scrolled).take(room).map(|row| {
        let cells = row.cells.iter().enumerate().map(|(column, text)| cell(text, column));
        let style = if row.wrong { look.coloured(Style::new(), Color::Red) } else { Style::new() };
        Row::new(cells).style(style)
    });
    let widths = table.columns.iter().enumerate().map(|(column, (title, align))| {
        let cells = table.rows.iter().map(|row| row.cells[column].chars().count());
        let width = cells.max().unwrap_or(0).max(title.len());
        let width = u16::try_from(width).unwrap_or(u16::MAX).min(widest);
        // Names may be cut, figures must not be.
        if *align == Align::Left { Constraint::Max(width) } else { Constraint::Length(width) }
    });
    let widget = Widget::new(rows, widths)
        .header(Row::new(titles).style(Style::new().bold()))
        .block(Block::bordered().title(count).border_style(border));
    frame.render_widget(widget, area);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_change_the_view() {
        let mut look = Look::default();
        assert!(look.follow(Key::Previous) && look.selected == TABLES - 1);
        assert!(look.follow(Key::Next) && look.selected == 0);
        assert!(look.follow(Key::Up) && look.scrolled[0] == 0);
        assert!(look.follow(Key::Down) && look.scrolled[0] == 1);
        assert!(look.follow(Key::Pause) && look.paused);
        assert!(look.follow(Key::Sort) && look.sort == Sort::Busiest);
        assert!(look.follow(Key::Enlarge) && look.enlarged);
        assert!(look.follow(Key::Redraw) && !look.follow(Key::Quit));
    }
}
