//! RPC within the process: what no bus can be faster than.

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use crate::payload::{Item, items, text};
use crate::{Caller, Load, Outcome, Processes, Result, closed_loop};

/// A call on its way: bytes, and where to send bytes back.
type Call = (Vec<u8>, oneshot::Sender<Vec<u8>>);

/// The serving task answers itself.
pub(crate) async fn measure_inline(callers: usize, bytes: usize, load: Load) -> Result<Outcome> {
    let (calls, mut queue) = mpsc::unbounded_channel::<Call>();
    tokio::spawn(async move {
        while let Some((payload, answer)) = queue.recv().await {
            let _ = answer.send(payload);
        }
    });
    measure_opaque(calls, callers, bytes, load).await
}

/// The serving task starts a task for each call.
pub(crate) async fn measure_spawn(callers: usize, bytes: usize, load: Load) -> Result<Outcome> {
    let (calls, mut queue) = mpsc::unbounded_channel::<Call>();
    tokio::spawn(async move {
        while let Some((payload, answer)) = queue.recv().await {
            tokio::spawn(async move {
                let _ = answer.send(payload);
            });
        }
    });
    measure_opaque(calls, callers, bytes, load).await
}

/// A task for each call, calls and results as JSON.
pub(crate) async fn measure_json(callers: usize, bytes: usize, load: Load) -> Result<Outcome> {
    let (calls, mut queue) = mpsc::unbounded_channel::<Call>();
    tokio::spawn(async move {
        while let Some((call, answer)) = queue.recv().await {
            tokio::spawn(async move {
                match answer_json(&call) {
                    Ok(result) => drop(answer.send(result)),
                    Err(error) => eprintln!("answering: {error}"),
                }
            });
        }
    });
    let caller = || JsonCaller { calls: calls.clone(), items: items(bytes) };
    let callers = std::iter::repeat_with(caller).take(callers).collect();
    closed_loop(callers, load, Processes::of_client()).await
}

async fn measure_opaque(
    calls: mpsc::UnboundedSender<Call>,
    callers: usize,
    bytes: usize,
    load: Load,
) -> Result<Outcome> {
    let caller = || OpaqueCaller { calls: calls.clone(), payload: text(bytes).into_bytes() };
    let callers = std::iter::repeat_with(caller).take(callers).collect();
    closed_loop(callers, load, Processes::of_client()).await
}

/// Sends its payload and gets it back, uncopied.
struct OpaqueCaller {
    calls: mpsc::UnboundedSender<Call>,
    payload: Vec<u8>,
}

impl Caller for OpaqueCaller {
    async fn call(&mut self) -> Result<u64> {
        let (answer, result) = oneshot::channel();
        self.calls.send((std::mem::take(&mut self.payload), answer))?;
        self.payload = result.await?;
        Ok(1)
    }
}

/// A call as the protocol has it.
#[derive(Deserialize, Serialize)]
struct CallMessage<K> {
    kwargs: K,
    metadata: CallMetadata,
}

#[derive(Deserialize, Serialize)]
struct CallMetadata {
    id: String,
    api_name: String,
    procedure_name: String,
    return_path: String,
}

#[derive(Deserialize, Serialize)]
struct Arguments<I> {
    items: I,
}

/// A result as the protocol has it.
#[derive(Deserialize, Serialize)]
struct ResultMessage<R> {
    kwargs: ResultValue<R>,
    metadata: ResultMetadata,
}

#[derive(Deserialize, Serialize)]
struct ResultValue<R> {
    result: R,
}

#[derive(Deserialize, Serialize)]
struct ResultMetadata {
    id: String,
    rpc_message_id: String,
    error: bool,
}

/// Encodes a call with structured arguments and decodes its result, which is as long.
struct JsonCaller {
    calls: mpsc::UnboundedSender<Call>,
    items: Vec<Item>,
}

impl Caller for JsonCaller {
    async fn call(&mut self) -> Result<u64> {
        let message = CallMessage {
            kwargs: Arguments { items: &self.items },
            metadata: CallMetadata {
                id: ID.into(),
                api_name: "bench.shop".into(),
                procedure_name: "echo".into(),
                return_path: "memory://".into(),
            },
        };
        let (answer, result) = oneshot::channel();
        self.calls.send((serde_json::to_vec(&message)?, answer))?;
        let result: ResultMessage<Vec<Item>> = serde_json::from_slice(&result.await?)?;
        if result.metadata.error || result.kwargs.result.len() != self.items.len() {
            return Err("not the result of the call".into());
        }
        Ok(1)
    }
}

const ID: &str = "85bad5ea-e701-11f1-9aa8-02fc00000001";

fn answer_json(call: &[u8]) -> Result<Vec<u8>> {
    let call: CallMessage<Arguments<Vec<Item>>> = serde_json::from_slice(call)?;
    let message = ResultMessage {
        kwargs: ResultValue { result: call.kwargs.items },
        metadata: ResultMetadata { id: ID.into(), rpc_message_id: call.metadata.id, error: false },
    };
    Ok(serde_json::to_vec(&message)?)
}
