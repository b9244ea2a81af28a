//! The heart: VM actors, plans, executor, reconcile. It knows ports (traits), not adapters.

pub mod ports;
