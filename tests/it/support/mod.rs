//! What several tests need: the proxy as a binary, a whole stage with it, and rounds with their figures.

pub mod figures;
pub mod proxy;
pub mod stage;
