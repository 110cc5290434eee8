//! `lightbus dlq retry`: requeues dead letters for their listener.

use std::time::Duration;

use lightbus::{Bus, DeadLetter, Error, ErrorKind};
use serde_json::json;
use tokio::time::MissedTickBehavior;

use crate::{
    cli::Letters,
    context::Context,
    dlq,
    failure::{FAILED, Failure, code},
    output,
};

/// The most dead letters in one request.
const BATCH: u16 = 500;
/// The most dead letters that one run requeues.
const MOST: usize = 100_000;

pub(crate) async fn run(
    context: &Context,
    bus: &Bus,
    letters: &Letters,
    dry_run: bool,
    rate: u16,
) -> Result<(), Failure> {
    // All are found before the first is requeued: one that fails again is dead-lettered behind them, and
    // would be requeued for ever.
    let found = find(bus, letters).await?;
    let mut retrying = Retrying { context, bus, letters, retried: 0, stayed: 0 };
    let stopped = if dry_run { Ok(()) } else { retrying.all(&found, rate).await };
    let Retrying { retried, stayed, .. } = retrying;
    if context.json {
        let line = json!({ "found": found.len(), "retried": retried, "dry_run": dry_run });
        output::line(&line.to_string())?;
    } else if dry_run {
        output::line(&format!(
            "would requeue {}",
            output::counted(found.len() as u64, "dead letter")
        ))?;
    } else {
        output::line(&format!("requeued {}", output::counted(retried as u64, "dead letter")))?;
    }
    stopped?;
    if stayed > 0 || (letters.id.is_some() && found.is_empty()) {
        return Err(Failure::Quiet(FAILED));
    }
    Ok(())
}

/// The dead letters that match, without the contents of their events.
async fn find(bus: &Bus, letters: &Letters) -> Result<Vec<DeadLetter>, Failure> {
    let mut found: Vec<DeadLetter> = Vec::new();
    dlq::pages(bus, letters, async |page| {
        let room = MOST - found.len();
        found.extend(page.into_iter().take(room).map(|mut letter| {
            letter.event.fields = Default::default();
            letter.event.headers = Default::default();
            letter
        }));
        Ok(found.len() < MOST)
    })
    .await?;
    Ok(found)
}

struct Retrying<'a> {
    context: &'a Context,
    bus: &'a Bus,
    letters: &'a Letters,
    retried: usize,
    stayed: usize,
}

impl Retrying<'_> {
    async fn all(&mut self, found: &[DeadLetter], rate: u16) -> Result<(), Failure> {
        let size = rate.min(BATCH);
        let mut ticks =
            tokio::time::interval(Duration::from_secs(1) * u32::from(size) / u32::from(rate));
        // A slow answer must not be caught up with above the rate.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for batch in found.chunks(usize::from(size)) {
            ticks.tick().await;
            match self.requeue(batch).await {
                Ok(()) => {}
                // One of them is gone; the others may still be there.
                Err(error) if error.kind() == ErrorKind::Unknown => self.each(batch).await?,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    async fn each(&mut self, batch: &[DeadLetter]) -> Result<(), Failure> {
        for letter in batch {
            match self.requeue(std::slice::from_ref(letter)).await {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::Unknown => self.stays(letter, &error),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    async fn requeue(&mut self, batch: &[DeadLetter]) -> Result<(), Error> {
        let Letters { service, listener, .. } = self.letters;
        self.retried += self.bus.admin().requeue_dead_letters(service, listener, batch).await?;
        Ok(())
    }

    fn stays(&mut self, letter: &DeadLetter, error: &Error) {
        self.stayed += 1;
        if self.context.json {
            let line =
                json!({ "id": &*letter.id, "stays": error.to_string(), "code": code(error) });
            eprintln!("{line}");
        } else {
            eprintln!("{} not requeued: {error}", letter.id);
        }
    }
}
