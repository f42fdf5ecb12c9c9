;; Waits for four hundred thousand clocks at once, each of which the host has to keep
(module
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll_oneoff (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
  ;; 48 bytes for each to wait for, and 32 for what comes behind them.
  (memory (export "memory") 490)
  (func (export "_start") (local $at i32)
    (local.set $at (i32.const 64))
    (loop $each
      (i32.store offset=16 (local.get $at) (i32.const 1))
      (i64.store offset=24 (local.get $at) (i64.const 0x7fffffffffffffff))
      (local.set $at (i32.add (local.get $at) (i32.const 48)))
      (br_if $each (i32.lt_u (local.get $at) (i32.const 19200064))))
    (drop (call $poll_oneoff (i32.const 64) (i32.const 19200064) (i32.const 400000) (i32.const 0)))
    (call $proc_exit (i32.const 3))))
