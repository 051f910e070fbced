//! Integration tests: the real binary, real configuration files.

mod config;
