//! The whole session core between a client and servers that are models: a tape of bytes decides what is said, in which
//! pieces, and what happens to the master.
//!
//! What must hold is with the model: `session::core::pair::tape`.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|tape: &[u8]| switchmaster::session::core::pair::tape::play(tape));
