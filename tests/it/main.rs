//! Tests on real servers, one binary. Each file is named after what it tests.
//!
//! A missing server fails a test: nothing passes in silence.

mod commands;
