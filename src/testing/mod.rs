//! Testing services without a broker.

use lightbus_core::{Fields, Name, Result};

use crate::schema::SchemaStore;

/// A process' view of the test that it is part of: held by its bus.
#[derive(Debug)]
pub(crate) struct Watch;

impl Watch {
    /// A call begins; it ends when what this gives is dropped.
    #[expect(clippy::unused_async, reason = "a test may have to read schemas")]
    pub(crate) async fn begin_call(
        &self,
        _api: &Name,
        _procedure: &Name,
        _fields: &Fields,
        _schema: &SchemaStore,
    ) -> Result<impl Sized + Send + use<>> {
        Ok(())
    }
}
