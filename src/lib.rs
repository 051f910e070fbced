//! switchmaster: a Sentinel-aware TCP proxy for Redis. A failover is something its clients do not notice.
//!
//! ```text
//!   clients                       data plane (one thread each, no locks)
//!   ───────▶ listener ──▶ session ◀──▶ backend ─────────────────────────▶ the master
//!                         │   ▲  resp (taps)                                 ▲
//!                 reports │   │ generation                                   │ ROLE, INFO
//!                         ▼   │                                              │
//!                        topology ◀── sentinel ──────────────────────────────┘
//!                             ▲       │  view decides (sans-IO)   ▲
//!                           admin ◀───┘ view                      └── +switch-master … every Sentinel
//!                     metrics, health, status, control       control plane (its own thread)
//! ```
//! Beside the proxy, in the same binary: [`backup`] (streams from a replica, restores), [`demo`] (real servers, also for
//! the tests). Both speak to Redis through [`wire`].
//!
//! # The two flows
//! **A byte**: client → read into the thread's scratch → the scanner taps it → the ledger notes the request → backend;
//! replies mirror it. All calls go down from one loop in [`session`].
//!
//! **A failover**: a Sentinel's event → `sentinel::view` → [`topology::Topology::publish`] → each session, on its next
//! turn: Flowing → Holding (nothing new is sent, what is outstanding finishes) → Moving (dial, restore, send again what
//! may be) → Flowing. What control must learn from sessions goes through [`topology::Report`]; nothing else calls back.
//!
//! # Invariants
//! - Control plane ([`sentinel`], [`admin`]) and data plane ([`listener`], [`session`]) never import each other; both
//!   know [`topology`]. `serve` composes them. `tests/it/tidy.rs` checks this.
//! - No request is sent to a node after a newer term was seen, and no data set sees a write twice unless the user chose
//!   so; a blocking pop excepted (`on_lost_pop`).
//! - Sockets of the runtime and of the standard library are named in [`net`] alone.
//! - Nothing grows without bound, no error of the network ends the process, a panic in a session ends that session.
//!
//! # Words
//! - *term*: a stretch of time with one master process; rises when sessions must move.
//! - *generation*: rises with each publication, whatever changed.
//! - *hold*: new requests wait. *Withhold*: a reply to a write waits until the next master, or while Sentinel chooses
//!   every replica that may become it, is seen to have it.
//! - *lane*: a session's backend connection. *Ledger*: the requests whose replies are still owed.
//! - *early commit*: following a promotion before Sentinel announces it; *provisional* until the epoch confirms it.

pub mod admin;
#[cfg(feature = "backup")]
pub mod backup;
pub mod cli;
pub mod config;
pub mod demo;
pub mod drain;
pub mod listener;
pub mod metrics;
pub mod net;
pub mod resp;
pub mod secret;
pub mod sentinel;
pub mod serve;
pub mod session;
pub mod topology;
pub mod wire;
