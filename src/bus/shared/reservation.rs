//! Reserving names while something is being set up.

use std::sync::Arc;

use lightbus_core::Name;

use super::{Inner, State};

/// Reserves a name for something that is being set up. Dropping it, for example because the future that
/// sets it up is dropped, releases the name; [`keep`](Self::keep) keeps it for good.
#[must_use = "dropping it releases the name"]
pub(crate) struct Reservation {
    inner: Arc<Inner>,
    name: Name,
    release: Option<fn(&mut State, &Name)>,
}

impl Reservation {
    /// Keeps the name for good.
    pub(crate) fn keep(mut self) {
        self.release = None;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if let Some(release) = self.release {
            release(&mut self.inner.state(), &self.name);
        }
    }
}

impl Inner {
    /// Reserves the name of a listener. Returns `None` if this process already has a listener of it.
    pub(crate) fn reserve_listener(self: &Arc<Self>, name: &Name) -> Option<Reservation> {
        self.state().listener_names.insert(Name::clone(name)).then(|| {
            self.reservation(name, |state, name| {
                state.listener_names.remove(name);
            })
        })
    }

    /// Reserves an API to serve. Returns `None` if this process already serves it.
    pub(crate) fn reserve_served(self: &Arc<Self>, api: &Name) -> Option<Reservation> {
        self.state().served.insert(Name::clone(api)).then(|| {
            self.reservation(api, |state, api| {
                state.served.remove(api);
            })
        })
    }

    fn reservation(self: &Arc<Self>, name: &Name, release: fn(&mut State, &Name)) -> Reservation {
        Reservation { inner: Arc::clone(self), name: Name::clone(name), release: Some(release) }
    }
}
