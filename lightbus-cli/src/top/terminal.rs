//! The terminal: switched to the view at the start, and restored at the end, after a panic too.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use ratatui::{
    DefaultTerminal, Frame,
    crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers},
};
use tokio::{sync::mpsc, task::JoinHandle};

/// How often the reader of keys checks whether it is to stop.
const LOOK: Duration = Duration::from_millis(50);
/// How long the end waits for the reader of keys.
const LAST_LOOK: Duration = Duration::from_secs(1);

/// The action of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    Quit,
    Pause,
    Next,
    Previous,
    Up,
    Down,
    Sort,
    Enlarge,
    /// The window was resized.
    Redraw,
}

pub(super) struct Terminal {
    inner: DefaultTerminal,
    keys: mpsc::Receiver<Key>,
    reader: Option<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
}

impl Terminal {
    /// Switches the terminal to the view. A panic restores it before its message is printed.
    pub(super) fn open() -> io::Result<Self> {
        let inner = ratatui::try_init()?;
        let (sender, keys) = mpsc::channel(32);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let reader = tokio::task::spawn_blocking(move || {
            while !stopped.load(Ordering::Relaxed) && !sender.is_closed() {
                match event::poll(LOOK)
                    .and_then(|is| if is { event::read().map(Some) } else { Ok(None) })
                {
                    Ok(found) => {
                        if let Some(key) = found.as_ref().and_then(meaning) {
                            // Keys that come faster than the view is drawn are dropped.
                            let _ = sender.try_send(key);
                        }
                    }
                    // The terminal is gone: the channel closes, and with it the view.
                    Err(_) => return,
                }
            }
        });
        Ok(Self { inner, keys, reader: Some(reader), stop })
    }

    pub(super) fn draw(&mut self, draw: impl FnOnce(&mut Frame<'_>)) -> io::Result<()> {
        self.inner.draw(draw).map(drop)
    }

    /// The next key, or `None` if the terminal is gone.
    pub(super) async fn key(&mut self) -> Option<Key> {
        self.keys.recv().await
    }

    /// Restores the terminal once no key is being read: the next one belongs to the shell.
    ///
    /// The reader is not awaited for ever. When the window is closed, crossterm's `poll` reads nothing
    /// from the terminal again and again, and never returns: the thread ends with the process.
    pub(super) async fn close(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(reader) = self.reader.take() {
            let _ = tokio::time::timeout(LAST_LOOK, reader).await;
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // A terminal that is gone cannot be restored, and `restore` would panic trying to say so.
        let _ = ratatui::try_restore();
    }
}

fn meaning(event: &Event) -> Option<Key> {
    let key = match event {
        Event::Key(key) if key.kind != KeyEventKind::Release => key,
        Event::Resize(..) => return Some(Key::Redraw),
        _ => return None,
    };
    let KeyEvent { code, modifiers, .. } = key;
    Some(match code {
        // In raw mode this is a key, and no signal.
        KeyCode::Char('c' | 'd') if modifiers.contains(KeyModifiers::CONTROL) => Key::Quit,
        KeyCode::Char('q') | KeyCode::Esc => Key::Quit,
        KeyCode::Char('p' | ' ') => Key::Pause,
        KeyCode::Char('s') => Key::Sort,
        KeyCode::Tab | KeyCode::Right => Key::Next,
        KeyCode::BackTab | KeyCode::Left => Key::Previous,
        KeyCode::Up | KeyCode::Char('k') => Key::Up,
        KeyCode::Down | KeyCode::Char('j') => Key::Down,
        KeyCode::Enter => Key::Enlarge,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_a_meaning() {
        let press = |code, modifiers| meaning(&Event::Key(KeyEvent::new(code, modifiers)));
        let none = KeyModifiers::NONE;
        for quit in [press(KeyCode::Char('q'), none), press(KeyCode::Esc, none)] {
            assert_eq!(quit, Some(Key::Quit));
        }
        assert_eq!(press(KeyCode::Char('c'), KeyModifiers::CONTROL), Some(Key::Quit));
        assert_eq!(press(KeyCode::Char('c'), none), None);
        assert_eq!(press(KeyCode::Tab, none), Some(Key::Next));
        assert_eq!(meaning(&Event::Resize(1, 1)), Some(Key::Redraw));
        assert_eq!(meaning(&Event::FocusLost), None);
    }
}
