//! What several tests need: so far, the proxy as a binary.

pub mod proxy;
