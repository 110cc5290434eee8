//! `lightbus top`: live activity on a bus. No other listener loses an event to it.
//!
//! `source` reads the events of the plugins, `model` counts what they report, `figures` asks the brokers,
//! and `sample` is the state at one time, made from both. It is shown by `screen` on a `terminal`, by
//! `text` in a pipe, or as JSON.

mod figures;
mod model;
mod rate;
mod sample;
mod screen;
mod source;
mod tables;
mod terminal;
mod text;

use std::{
    io::IsTerminal,
    pin::Pin,
    time::{Duration, Instant, SystemTime},
};

use lightbus::Bus;

use self::{
    figures::{Asker, Figures},
    model::Model,
    sample::Sample,
    screen::Look,
    source::Source,
    terminal::Terminal,
};
use crate::{
    cli::Top,
    context::Context,
    failure::{Failure, INTERRUPTED},
    output,
};

/// How long closing may take.
const LAST: Duration = Duration::from_secs(5);

/// The bus that is watched, and what is known about it.
struct Watch {
    bus: Bus,
    source: Source,
    asker: Asker,
    model: Model,
    figures: Figures,
    began: Instant,
    ticked: Instant,
    left_out: bool,
}

pub(crate) async fn run(context: &Context, command: Top) -> Result<(), Failure> {
    let bus = context.bus().await?;
    let mut watch = Watch::begin(context, &bus).await?;
    let is_view = !command.once
        && !context.json
        && command.count.is_none()
        && std::io::stdout().is_terminal()
        && std::io::stdin().is_terminal();
    let done = if is_view {
        view(&mut watch, &command).await
    } else {
        plain(context, &mut watch, &command).await
    };
    // After Ctrl-C too, so that nothing stays on the broker.
    let closing = async {
        watch.source.close(&bus).await?;
        Ok(bus.close().await?)
    };
    let closed = tokio::time::timeout(LAST, closing).await.unwrap_or_else(|_| {
        Err(Failure::Failed("the broker did not answer while closing".to_owned()))
    });
    done.and(closed)
}

impl Watch {
    async fn begin(context: &Context, bus: &Bus) -> Result<Self, Failure> {
        let mut watch = Self {
            source: Source::open(context, bus).await?,
            bus: bus.clone(),
            asker: Asker::new(bus),
            model: Model::default(),
            figures: Figures::default(),
            began: Instant::now(),
            ticked: Instant::now(),
            left_out: false,
        };
        // The processes may be known already.
        watch.learn().await?;
        watch.ticked = Instant::now();
        Ok(watch)
    }

    async fn learn(&mut self) -> Result<(), Failure> {
        let news = self.source.read(&self.bus).await?;
        self.left_out = news.left_out;
        for (event, at) in &news.events {
            self.model.feed(event, *at);
        }
        Ok(())
    }

    /// Learns what has happened since the last look.
    async fn look(&mut self) -> Result<(), Failure> {
        self.learn().await?;
        let took = self.ticked.elapsed();
        self.ticked = Instant::now();
        self.model.tick(SystemTime::now(), took);
        self.figures = self.asker.ask(&self.model.listeners).await?;
        Ok(())
    }

    fn sample(&self) -> Sample {
        let (watched, now) = (self.began.elapsed(), SystemTime::now());
        Sample::new(&self.model, &self.figures, self.left_out, watched, now)
    }
}

/// Prints one sample after the other, for programs and pipes.
async fn plain(context: &Context, watch: &mut Watch, command: &Top) -> Result<(), Failure> {
    let endless = context.json && !command.once;
    let mut left = command.count.unwrap_or(if endless { u64::MAX } else { 1 });
    let samples = async {
        while left > 0 {
            left -= 1;
            tokio::time::sleep(command.interval).await;
            watch.look().await?;
            let sample = watch.sample();
            if context.json {
                output::line(&serde_json::to_string(&sample).unwrap_or_default())?;
            } else {
                output::line(&text::text(&sample))?;
            }
        }
        Ok(())
    };
    tokio::select! {
        done = samples => done,
        // Without a limit, Ctrl-C is the way to stop, and a success.
        () = interrupted() => Err(Failure::Quiet(if endless { 0 } else { INTERRUPTED })),
    }
}

/// The live view. It stays open while the broker is unreachable, and says so.
struct View {
    terminal: Terminal,
    look: Look,
    shown: Option<Sample>,
    trouble: Option<String>,
}

async fn view(watch: &mut Watch, command: &Top) -> Result<(), Failure> {
    let look = Look::new(console::colors_enabled());
    let mut view = View { terminal: Terminal::open()?, look, shown: None, trouble: None };
    let done = view.run(watch, command.interval).await;
    view.terminal.close().await;
    done
}

impl View {
    async fn run(&mut self, watch: &mut Watch, interval: Duration) -> Result<(), Failure> {
        let mut stop = std::pin::pin!(interrupted());
        loop {
            let begun = tokio::time::Instant::now();
            if !self.look.paused {
                let Some(looked) = self.during(watch.look(), stop.as_mut()).await? else {
                    return Ok(());
                };
                match looked {
                    Ok(()) => {
                        self.shown = Some(watch.sample());
                        self.trouble = None;
                    }
                    Err(failure) => self.trouble = Some(failure.to_string()),
                }
            }
            // Asking takes at most half of the time, however slow the bus is.
            let next = begun + interval.max(2 * begun.elapsed());
            if self.during(tokio::time::sleep_until(next), stop.as_mut()).await?.is_none() {
                return Ok(());
            }
        }
    }

    /// Draws and handles keys until `work` is done. Returns `None` if the view is to close.
    async fn during<T>(
        &mut self,
        work: impl Future<Output = T>,
        mut stop: Pin<&mut impl Future<Output = ()>>,
    ) -> Result<Option<T>, Failure> {
        let mut work = std::pin::pin!(work);
        loop {
            let Self { terminal, look, shown, trouble } = self;
            if let Some(sample) = shown {
                sample.sort(look.sort);
            }
            terminal.draw(|frame| screen::draw(frame, look, shown.as_ref(), trouble.as_deref()))?;
            tokio::select! {
                done = &mut work => return Ok(Some(done)),
                key = terminal.key() => match key {
                    Some(key) if look.follow(key) => {}
                    _ => return Ok(None),
                },
                () = &mut stop => return Ok(None),
            }
        }
    }
}

/// Waits for Ctrl-C, SIGTERM or SIGHUP.
async fn interrupted() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let (Ok(mut term), Ok(mut hang_up)) =
            (signal(SignalKind::terminate()), signal(SignalKind::hangup()))
        {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => return,
                _ = term.recv() => return,
                _ = hang_up.recv() => return,
            }
        }
    }
    let _ = tokio::signal::ctrl_c().await;
}
