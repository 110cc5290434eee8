//! The properties that a node sends when a client connects, before it logs in. The client library does
//! not expose them, so that a connection of its own reads them.

use futures_util::{AsyncReadExt, AsyncWriteExt};
use lapin::{
    protocol::{AMQPClass, connection::AMQPMethod, parse_class},
    tcp::AMQPUriTcpExt,
    types::{AMQPValue, FieldTable},
    uri::AMQPUri,
};

use crate::{endpoint::Endpoint, header};

/// The header of AMQP 0-9-1.
const HELLO: &[u8; 8] = b"AMQP\0\0\x09\x01";
/// The largest frame that is read.
const MAX_FRAME: usize = 64 << 10;
/// The broker capabilities that lightbus needs.
const NEEDED: [&str; 4] =
    ["publisher_confirms", "basic.nack", "connection.blocked", "direct_reply_to"];

/// The properties of a node.
#[derive(Debug, Default)]
pub(crate) struct ServerProperties {
    pub(crate) product: String,
    pub(crate) version: String,
    pub(crate) cluster: String,
    /// The needed capabilities that the node lacks.
    pub(crate) lacks: Vec<&'static str>,
}

impl ServerProperties {
    /// Reads the properties of a node. The caller limits how long that may take.
    pub(crate) async fn of(endpoint: &Endpoint, uri: &AMQPUri) -> Result<Self, String> {
        let failed = |error: &dyn std::fmt::Display| error.to_string();
        let runtime = lapin::runtime::default_runtime().map_err(|error| failed(&error))?;
        let tls = endpoint.tls.to_config();
        let mut stream = AMQPUriTcpExt::connect_with_config_async(uri, tls.as_ref(), &runtime)
            .await
            .map_err(|error| failed(&error))?;
        stream.write_all(HELLO).await.map_err(|error| failed(&error))?;
        stream.flush().await.map_err(|error| failed(&error))?;
        // A frame: type, channel, size, then as many bytes.
        let mut head = [0; 7];
        stream.read_exact(&mut head).await.map_err(|error| failed(&error))?;
        let [kind, _, _, size @ ..] = head;
        let size = usize::try_from(u32::from_be_bytes(size)).unwrap_or(usize::MAX);
        if kind != 1 || size > MAX_FRAME {
            return Err("it does not speak AMQP 0-9-1".to_owned());
        }
        let mut frame = vec![0; size];
        stream.read_exact(&mut frame).await.map_err(|error| failed(&error))?;
        match parse_class(&frame[..]) {
            Ok((_, AMQPClass::Connection(AMQPMethod::Start(start)))) => {
                Ok(Self::read(&start.server_properties))
            }
            _ => Err("it does not begin as AMQP 0-9-1 requires".to_owned()),
        }
    }

    fn read(properties: &FieldTable) -> Self {
        let text = |name| header::string(properties, name).unwrap_or_default().to_owned();
        let can = |name: &str| match properties.inner().get("capabilities") {
            Some(AMQPValue::FieldTable(can)) => {
                matches!(can.inner().get(name), Some(AMQPValue::Boolean(true)))
            }
            _ => false,
        };
        Self {
            product: text("product"),
            version: text("version"),
            cluster: text("cluster_name"),
            lacks: NEEDED.into_iter().filter(|name| !can(name)).collect(),
        }
    }
}
