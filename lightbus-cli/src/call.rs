//! `lightbus call`.

use lightbus::ErrorKind;
use serde_json::{Value, value::RawValue};

use crate::{arguments, cli::Call, context::Context, failure::Failure, output};

pub(crate) async fn run(context: &Context, command: Call) -> Result<(), Failure> {
    let fields = arguments::typed(&command.arguments)?;
    let bus = context.bus().await?;
    let mut call = bus.call::<Box<RawValue>>(&command.procedure, fields);
    if let Some(timeout) = command.timeout {
        call = call.timeout(timeout);
    }
    let result = call.await;
    let result = match result {
        Ok(result) => result,
        // `Unavailable` means that the broker is away, or that no process serves the API. In the second
        // case the broker still answers.
        Err(error) if error.kind() == ErrorKind::Unavailable && bus.remote_apis().await.is_ok() => {
            return Err(Failure::Reached(error));
        }
        Err(error) => return Err(error.into()),
    };
    match serde_json::from_str::<Value>(result.get()) {
        Ok(value) if !context.json && console::user_attended() => output::value(context, &value)?,
        // Unparsed, so that numbers and the order of keys stay as they are.
        _ => output::line(result.get())?,
    }
    bus.close().await?;
    Ok(())
}
