//! Names that are taken while something is being set up.

use std::sync::Arc;

use lightbus_core::Name;

use super::{Inner, State};

/// Holds a name for something that is being set up. Dropped, also because the future that sets it up
/// was dropped, the name is free again; [`keep`](Self::keep) takes it for good.
#[must_use = "dropped, the name is free again"]
pub(crate) struct Reservation {
    inner: Arc<Inner>,
    name: Name,
    release: Option<fn(&mut State, &Name)>,
}

impl Reservation {
    /// The name stays taken.
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
    /// Takes the name of a listener, unless this process has one of that name.
    pub(crate) fn reserve_listener(self: &Arc<Self>, name: &Name) -> Option<Reservation> {
        self.state().listener_names.insert(Name::clone(name)).then(|| {
            self.reservation(name, |state, name| {
                state.listener_names.remove(name);
            })
        })
    }

    /// Takes an API to serve, unless this process serves it.
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
