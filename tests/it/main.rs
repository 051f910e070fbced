//! Tests against real servers: one program, so that everything is built and linked once.
//!
//! Each test starts its own processes on fresh ports and waits for conditions with limits; they run in parallel.

mod admin;
mod architecture;
mod belief;
mod cluster;
mod commands;
mod config;
mod contract;
mod credentials;
mod descriptors;
mod doctor;
mod drain;
mod failover;
mod hostile;
mod instructions;
mod laravel;
mod leaving;
mod load;
mod manager;
mod memory;
mod msrv;
mod notify;
mod odd;
mod operation;
mod orders;
mod page;
mod pool;
mod prometheus;
mod readme;
mod reload;
mod sentinel;
mod split;
mod startup;
mod support;
mod tidy;
mod transparency;
mod transparency_docs;
mod unix;
mod verbs;
