//! Owns the guests that are written for these measurements, and variants of a guest that differ in their digest alone.

use anyhow::{Context, Result};

/// Reads the real-time clock first of all, then writes the eight bytes to standard output.
const CLOCK: &str = r#"(module
  (import "wasi_snapshot_preview1" "clock_time_get" (func $clock (param i32 i64 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 8) "\10\00\00\00\08\00\00\00")
  (func (export "_start")
    (drop (call $clock (i32.const 0) (i64.const 0) (i32.const 16)))
    (drop (call $write (i32.const 1) (i32.const 8) (i32.const 1) (i32.const 24)))))"#;

/// Writes one byte, then loops and never calls the host again.
const SPIN: &str = r#"(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 8) "\10\00\00\00\01\00\00\00.")
  (func (export "_start")
    (drop (call $write (i32.const 1) (i32.const 8) (i32.const 1) (i32.const 24)))
    (loop $again (br $again))))"#;

/// Writes to all of its one page, so that all of it is resident, then waits in `poll_oneoff` for ten minutes: longer than
/// any measurement.
const SLEEP: &str = r#"(module
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1 1)
  (func (export "_start")
    (memory.fill (i32.const 0) (i32.const 1) (i32.const 65536))
    (i64.store (i32.const 8) (i64.const 0))
    (i64.store (i32.const 16) (i64.const 1))
    (i64.store (i32.const 24) (i64.const 600000000000))
    (i64.store (i32.const 32) (i64.const 0))
    (i64.store (i32.const 40) (i64.const 0))
    (drop (call $poll (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 128)))))"#;

pub(crate) fn clock() -> Result<Vec<u8>> {
    Ok(wat::parse_str(CLOCK)?)
}

pub(crate) fn spin() -> Result<Vec<u8>> {
    Ok(wat::parse_str(SPIN)?)
}

pub(crate) fn sleep() -> Result<Vec<u8>> {
    Ok(wat::parse_str(SLEEP)?)
}

/// The hello module of `workloads/`.
pub(crate) fn hello() -> Result<Vec<u8>> {
    let path = vyr_guests::guest("hello-p1");
    std::fs::read(&path).with_context(|| path.display().to_string())
}

/// The same guest with a custom section that holds a number: another digest, the same code.
pub(crate) fn variant(guest: &[u8], number: usize) -> Vec<u8> {
    let content = format!("{number:08x}");
    let mut bytes = guest.to_vec();
    // Id 0, the length of what follows (below 128: one byte of LEB128), the name's length, the name.
    bytes.extend_from_slice(&[0, 10, 1, b'n']);
    bytes.extend_from_slice(content.as_bytes());
    bytes
}
