//! The broker as it ships, from outside: who may connect, what it answers, how it starts, enters its sandbox and ends.
//!
//! As root the broker runs as a uid of its own. Without root, tests that need it are skipped with a note, or fail if
//! `KEYHOLE_REQUIRE_ROOT` is set.

mod answers;
mod clients;
mod ends;
#[path = "../../../tests/common/forked.rs"]
mod forked;
#[path = "../../../tests/common/lacking.rs"]
#[allow(dead_code, reason = "shared with the tests of all programs together")]
mod lacking;
mod passed;
mod probe;
mod stage;
mod start;
#[path = "../../../tests/common/stray.rs"]
mod stray;
