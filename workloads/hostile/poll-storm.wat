;; Polls five thousand clocks that are over at once, again and again
(module
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll_oneoff (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
  ;; Subscriptions at 64 KiB, 48 bytes each: all zeros is a timeout of 0. Events at 1 MiB, 32 bytes each.
  (memory (export "memory") 32)
  (func (export "_start")
    (loop $again
      (if (call $poll_oneoff (i32.const 0x10000) (i32.const 0x100000) (i32.const 5000) (i32.const 0))
        (then (call $proc_exit (i32.const 3))))
      (br $again))))
