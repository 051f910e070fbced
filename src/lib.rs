//! switchmaster: a Sentinel-aware TCP proxy for Redis. A failover is something its clients do not notice.
//!
//! ```text
//!   clients                       data plane (one thread each, no locks)
//!   ───────▶ listener ──▶ session ◀──▶ backend ─────────────────────────▶ the master
//!                         │   ▲  resp (taps)                                 ▲
//!                 reports │   │ generation                                   │ ROLE, INFO
//!                         ▼   │                                              │
//!                        topology ◀── sentinel ──────────────────────────────┘
//!                             ▲       │  tracker (sans-IO)        ▲
//!                           admin ◀───┘ view                      └── +switch-master … every Sentinel
//!                     metrics, health, status, control       control plane (its own thread)
//! ```
//! Beside the proxy, in the same binary, and each a member of the workspace of its own: `backup` (crates/backup: streams
//! from a replica, restores), `doctor` (crates/doctor: what is wrong with a set-up) and `demo` (crates/testkit: real
//! servers, also for the tests). None knows the proxy: what all of them need of Redis, of Sentinel and of one another is
//! crates/protocol ([`resp`], [`wire`], [`secret`], [`status`], [`control`], [`remote`] …), whose rooms have their old names
//! here. Without the features `backup`, `demo` and `top` the binary is the proxy and its doctor.
//!
//! # The two flows
//! **A byte**: client → read into the thread's scratch → the scanner taps it → the ledger notes the request → backend;
//! replies mirror it. One loop in `session::driver` moves them,
//! and `session::core` decides.
//!
//! **A failover**: a Sentinel's event → `sentinel::tracker` → [`topology::Topology::publish`] → each session, on its next
//! turn: Flowing → Holding (nothing new is sent, what is outstanding finishes) → the move (judge, dial, restore, send again
//! what may be) → Flowing.
//!
//! Control learns from sessions in three ways and no other: a [`topology::Report`]; the newest credentials that let a client
//! in, which the [`upstream`] keeps until control looks; and the workers' counts, of which that of replies is a sign of life.
//!
//! # Invariants
//! - Control plane ([`sentinel`], [`admin`]) and data plane ([`listener`], [`session`]) never import each other; both
//!   know [`topology`], and the [`upstream`] that it is of. `serve` composes them. `tests/it/tidy.rs` has the rooms in their
//!   order, with what each may import.
//! - No request is sent to a node after a newer term was seen, and no data set sees a write twice unless the user chose
//!   so; a blocking pop excepted (`on_lost_pop`).
//! - Sockets of the runtime and of the standard library are named in [`net`] alone.
//! - Nothing grows without bound, no error of the network ends the process, a panic in a session ends that session.
//!
//! ARCHITECTURE.md has the map of all rooms, who may write which field, the reasons, and the words.

pub mod admin;
pub mod cli;
pub mod close_reason;
pub mod config;
pub mod direct;
pub mod drain;
pub mod listener;
pub mod log;
pub mod metrics;
pub mod notify;
pub mod sentinel;
pub mod serve;
pub mod session;
#[cfg(feature = "top")]
pub mod top;
pub mod topology;
pub mod upstream;
pub mod verbs;

#[cfg(feature = "backup")]
pub use switchmaster_backup as backup;
pub use switchmaster_doctor as doctor;
pub use switchmaster_protocol::{
    address, callout, control, duration, host, location, net, node, remote, resp, secret, settings, size, status, wire,
};
#[cfg(feature = "demo")]
pub use switchmaster_testkit as demo;
