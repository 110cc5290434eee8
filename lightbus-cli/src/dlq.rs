//! `lightbus dlq`: dead letters, the events that listeners could not handle.

use lightbus::{Bus, DeadLetter};
use serde_json::{Value, json};

use crate::{
    cli::{self, Letters},
    context::Context,
    failure::{FAILED, Failure},
    listeners, output, retry,
};

/// How many are read from the broker at once. Small pages bound the memory; large ones are cheaper on
/// RabbitMQ, where every page reads all dead letters of the listener.
const PAGE: usize = 500;

pub(crate) async fn run(context: &Context, command: cli::Dlq) -> Result<(), Failure> {
    let bus = context.bus().await?;
    match command {
        cli::Dlq::List { letters, limit } => list(context, &bus, &letters, limit).await?,
        cli::Dlq::Show { letters } => show(context, &bus, &letters).await?,
        cli::Dlq::Retry { letters, dry_run, all, rate } => {
            letters.must_say_which(all)?;
            retry::run(context, &bus, &letters, dry_run, rate).await?;
        }
        cli::Dlq::Purge { letters, dry_run, all } => {
            letters.must_say_which(all)?;
            purge(context, &bus, &letters, dry_run).await?;
        }
    }
    bus.close().await?;
    Ok(())
}

impl Letters {
    fn must_say_which(&self, all: bool) -> Result<(), Failure> {
        let has_filter = self.id.is_some()
            || self.event.is_some()
            || self.reason.is_some()
            || self.before.is_some();
        if all || has_filter {
            return Ok(());
        }
        let which = "choose with --id, --event, --reason or --before, or pass --all";
        Err(Failure::Usage(which.to_owned()))
    }

    fn takes(&self, letter: &DeadLetter) -> bool {
        let name = || format!("{}.{}", letter.event.api, letter.event.event);
        let is = |wanted: &String| match wanted.strip_suffix(".*") {
            Some(api) => api == &*letter.event.api,
            None => *wanted == name(),
        };
        self.id.as_deref().is_none_or(|id| id == &*letter.id || id == &*letter.event.id)
            && self.event.as_ref().is_none_or(is)
            && self.reason.as_ref().is_none_or(|part| letter.reason.contains(part.as_str()))
            && self.before.is_none_or(|before| letter.time < before)
    }
}

/// Reads page by page, and stops when `each` returns `false`. Fails if there are none because there is no
/// such listener.
pub(crate) async fn pages(
    bus: &Bus,
    letters: &Letters,
    mut each: impl AsyncFnMut(Vec<DeadLetter>) -> Result<bool, Failure>,
) -> Result<(), Failure> {
    let (service, listener) = (&letters.service, &letters.listener);
    let mut page = bus.admin().dead_letters(service, listener, PAGE).await?;
    if page.is_empty() {
        listeners::must_be_known(bus, service, listener).await?;
    }
    while let Some(last) = page.last().cloned() {
        let full = page.len() >= PAGE;
        page.retain(|letter| letters.takes(letter));
        if !each(page).await? || !full {
            break;
        }
        page = bus.admin().dead_letters_after(service, listener, &last, PAGE).await?;
    }
    Ok(())
}

async fn list(context: &Context, bus: &Bus, letters: &Letters, most: usize) -> Result<(), Failure> {
    let mut left = most;
    pages(bus, letters, async |page| {
        for letter in page.iter().take(left) {
            if context.json {
                output::line(&as_json(bus, letter).to_string())?;
            } else {
                output::line(&format!(
                    "{} {} {}.{} {}: {}",
                    output::timestamp(letter.time),
                    letter.id,
                    letter.event.api,
                    letter.event.event,
                    output::counted(letter.attempts.into(), "attempt"),
                    letter.reason.lines().next().unwrap_or_default()
                ))?;
            }
        }
        left -= page.len().min(left);
        Ok(left > 0)
    })
    .await?;
    if left == most && !context.json {
        eprintln!("no dead letter matches");
    }
    Ok(())
}

async fn show(context: &Context, bus: &Bus, letters: &Letters) -> Result<(), Failure> {
    let mut shown = 0;
    pages(bus, letters, async |page| {
        for letter in &page {
            output::value(context, &as_json(bus, letter))?;
            shown += 1;
        }
        Ok(true)
    })
    .await?;
    if shown == 0 { Err(Failure::Failed("no dead letter matches".to_owned())) } else { Ok(()) }
}

async fn purge(
    context: &Context,
    bus: &Bus,
    letters: &Letters,
    dry_run: bool,
) -> Result<(), Failure> {
    let (mut found, mut removed) = (0, 0);
    pages(bus, letters, async |page| {
        found += page.len();
        if !dry_run {
            removed +=
                bus.admin().remove_dead_letters(&letters.service, &letters.listener, &page).await?;
        }
        Ok(true)
    })
    .await?;
    if context.json {
        let line = json!({ "found": found, "removed": removed, "dry_run": dry_run });
        output::line(&line.to_string())?;
    } else if dry_run {
        output::line(&format!("would remove {}", output::counted(found as u64, "dead letter")))?;
    } else {
        output::line(&format!("removed {}", output::counted(removed as u64, "dead letter")))?;
    }
    if letters.id.is_some() && found == 0 {
        return Err(Failure::Quiet(FAILED));
    }
    Ok(())
}

fn as_json(bus: &Bus, letter: &DeadLetter) -> Value {
    json!({
        "id": &*letter.id,
        "time": output::timestamp(letter.time),
        "group": &*letter.group.name(),
        "reason": letter.reason,
        "attempts": letter.attempts,
        "event": output::event_as_json(bus, &letter.event),
    })
}
