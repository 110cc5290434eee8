//! The #[api] attribute and the derives of lightbus.
