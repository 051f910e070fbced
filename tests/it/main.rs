//! Integration tests, one binary.
mod admin;
