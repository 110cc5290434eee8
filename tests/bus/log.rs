//! What the bus logs: one for all tests of this program.

use std::{
    io::Write,
    sync::{Mutex, Once, PoisonError},
};

static LOG: Mutex<Vec<u8>> = Mutex::new(Vec::new());

/// What this program has logged so far; the first call begins it.
pub fn log() -> impl Fn() -> String {
    struct Into;
    impl Write for Into {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            LOG.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let log = tracing_subscriber::fmt().with_ansi(false).with_writer(|| Into);
        log.with_max_level(tracing_subscriber::filter::LevelFilter::WARN).init();
    });
    || String::from_utf8_lossy(&LOG.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
}
