//! `lightbus fire`: one event, or one per line of standard input.

use std::io::{self, BufRead, Read};

use futures_util::stream::{FuturesUnordered, StreamExt};
use indicatif::{ProgressBar, ProgressStyle};
use lightbus::{Arguments, Bus, ErrorKind, Fired};
use serde_json::json;
use tokio::sync::mpsc;

use crate::{
    arguments,
    cli::Fire,
    context::Context,
    failure::{FAILED, Failure},
    output,
};

/// The longest line that is read: more than any broker accepts in its usual configuration.
const LONGEST_LINE: usize = 16 * 1024 * 1024;
/// How many lines are read ahead while the maximum is in flight.
const READ_AHEAD: usize = 64;

pub(crate) async fn run(context: &Context, command: Fire) -> Result<(), Failure> {
    let fields = arguments::typed(&command.arguments)?;
    let bus = context.bus().await?;
    let version = match command.event_version {
        Some(version) => Some(version),
        None => past_version(&bus, &command.event).await,
    };
    if command.stdin {
        from_lines(context, &bus, &command, version).await?;
    } else {
        let fired = fire(&bus, &command.event, fields, version).await?;
        if context.json {
            let line = json!({ "id": &*fired.id, "native_id": &*fired.native_id });
            output::line(&line.to_string())?;
        } else {
            output::line(&format!("fired {} {}", command.event, fired.id))?;
        }
    }
    bus.close().await?;
    Ok(())
}

/// The version of the newest past event of the API, for a schema that names no version, as those of
/// Python. `None` if the schema names one, or if it cannot be found out.
async fn past_version(bus: &Bus, event: &str) -> Option<u32> {
    let (api, _) = event.rsplit_once('.')?;
    let document = bus.schema(api).await.ok()??;
    if !document["x-version"].is_null() {
        return None;
    }
    let mut history = bus.admin().history(&format!("{api}.*"), None, None).await.ok()?;
    Some(history.next().await?.ok()?.version)
}

async fn fire(
    bus: &Bus,
    event: &str,
    fields: Arguments,
    version: Option<u32>,
) -> lightbus::Result<Fired> {
    let event = bus.admin().fire_on_behalf(event, fields);
    match version {
        Some(version) => event.version(version).await,
        None => event.await,
    }
}

/// The number of a line, and its arguments or why they cannot be read.
type Line = (u64, Result<Arguments, String>);

async fn from_lines(
    context: &Context,
    bus: &Bus,
    command: &Fire,
    version: Option<u32>,
) -> Result<(), Failure> {
    let (sender, mut lines) = mpsc::channel(READ_AHEAD);
    // Not awaited: it ends with standard input, or when the receiver is dropped.
    drop(tokio::task::spawn_blocking(move || read(&sender)));
    let progress = ProgressBar::new_spinner();
    let shown = "{spinner} {pos} fired, {per_sec}, {elapsed}";
    if let Ok(style) = ProgressStyle::with_template(shown) {
        progress.set_style(style);
    }
    let (mut fired, mut refused, mut more) = (0_u64, 0_u64, true);
    let mut in_flight = FuturesUnordered::new();
    let mut stop = None;
    let mut refuse = |number: u64, why: &str| {
        refused += 1;
        progress.suspend(|| {
            if context.json {
                eprintln!("{}", json!({ "line": number, "refused": why }));
            } else {
                eprintln!("line {number}: {why}");
            }
        });
    };
    loop {
        tokio::select! {
            biased;
            line = lines.recv(), if more && in_flight.len() < usize::from(command.in_flight) => {
                match line {
                    Some((number, Ok(fields))) => in_flight.push(async move {
                        (number, fire(bus, &command.event, fields, version).await)
                    }),
                    Some((number, Err(why))) => refuse(number, &why),
                    None => more = false,
                }
            }
            Some((number, result)) = in_flight.next(), if !in_flight.is_empty() => match result {
                Ok(_) => {
                    fired += 1;
                    progress.inc(1);
                }
                Err(error) => {
                    refuse(number, &error.to_string());
                    // Later events would fail in the same way.
                    if matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Timeout) {
                        more = false;
                        stop.get_or_insert(error);
                    }
                }
            },
            else => break,
        }
    }
    progress.finish_and_clear();
    if context.json {
        output::line(&json!({ "fired": fired, "refused": refused }).to_string())?;
    } else {
        output::line(&format!("fired {fired}, refused {refused}"))?;
    }
    match stop {
        Some(error) => Err(Failure::Quiet(crate::failure::code(&error))),
        None if refused > 0 => Err(Failure::Quiet(FAILED)),
        None => Ok(()),
    }
}

/// Reads lines until the end. Blank lines are numbered, and skipped.
fn read(lines: &mpsc::Sender<Line>) {
    let mut input = io::stdin().lock();
    let mut number = 0;
    loop {
        number += 1;
        let mut line = Vec::new();
        let most = LONGEST_LINE as u64 + 1;
        let read = match input.by_ref().take(most).read_until(b'\n', &mut line) {
            Ok(0) => return,
            Ok(_) if line.len() > LONGEST_LINE && !line.ends_with(b"\n") => {
                let why =
                    format!("longer than {LONGEST_LINE} bytes; the rest of the input is not read");
                let _ = lines.blocking_send((number, Err(why)));
                return;
            }
            Ok(_) if line.trim_ascii().is_empty() => continue,
            Ok(_) => arguments::object(&line),
            Err(error) => {
                let _ = lines.blocking_send((number, Err(format!("cannot be read: {error}"))));
                return;
            }
        };
        if lines.blocking_send((number, read)).is_err() {
            return;
        }
    }
}
