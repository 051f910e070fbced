//! Failovers, as the issue tracker's "must show" tells them: each test is one scenario on fresh clusters.
//!
//! `make test` runs one round of each; `make prove` runs several in a release build and prints the medians of what
//! it measured against what was promised. Errors, lost connections and lost writes are asserted in every round.

mod crash;
mod frozen;
mod lagging;
mod outage;
mod planned;
mod sessions;
mod starting;
mod transactions;
