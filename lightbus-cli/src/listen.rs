//! `lightbus listen`: prints events, and acknowledges each once it is printed.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use lightbus::OnError;
use tokio::sync::mpsc;

use crate::{cli::Listen, context::Context, failure::Failure, output};

/// Why listening ends.
enum End {
    Count,
    Output(std::io::Error),
}

pub(crate) async fn run(context: &Context, command: Listen) -> Result<(), Failure> {
    let bus = context.bus_of(&command.service).await?;
    let (json, most) = (context.json, command.count.unwrap_or(u64::MAX));
    let begun = Arc::new(AtomicU64::new(0));
    let (ends, mut end) = mpsc::channel(1);
    let shower = bus.clone();
    let handler = move |event: Arc<lightbus::EventMessage>| {
        let (begun, ends, bus) = (Arc::clone(&begun), ends.clone(), shower.clone());
        async move {
            let number = begun.fetch_add(1, Ordering::Relaxed) + 1;
            if number > most {
                // Beyond `--count`: requeued, and no more are fetched.
                return Err(std::io::Error::other("enough").into());
            }
            if let Err(error) = output::event(&bus, json, &event) {
                let _ = ends.try_send(End::Output(error));
                std::future::pending::<()>().await;
            }
            if number == most {
                let _ = ends.try_send(End::Count);
            }
            Ok(())
        }
    };
    let events = command.events.iter().map(String::as_str);
    let listen = bus
        .listen_to(&command.name, events, handler)
        .start(command.from)
        .on_error(OnError::Shutdown);
    tokio::select! {
        begun = listen => begun?,
        _ = tokio::signal::ctrl_c() => return Ok(()),
    }
    if !json && console::user_attended_stderr() {
        eprintln!("listening as {}-{}; Ctrl-C stops", command.service, command.name);
    }
    let failed = tokio::select! {
        end = end.recv() => match end {
            Some(End::Output(error)) => Err(error.into()),
            Some(End::Count) | None => Ok(()),
        },
        _ = tokio::signal::ctrl_c() => Ok(()),
    };
    // Acknowledges what was printed, and requeues what was not.
    let closed = bus.close().await;
    failed.and(closed.map_err(Failure::from))
}
