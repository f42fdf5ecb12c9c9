;; Writes 56 MiB by one call, then gives three million empty buffers to one, and buffers beyond its memory
(module
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
  (memory (export "memory") 960)
  (func (export "_start")
    (i32.store (i32.const 0) (i32.const 0x10000))
    (i32.store (i32.const 4) (i32.const 0x3800000))
    (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
    (drop (call $fd_write (i32.const 1) (i32.const 0x10000) (i32.const 3000000) (i32.const 8)))
    (i32.store (i32.const 4) (i32.const -1))
    (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
    (drop (call $fd_write (i32.const 1) (i32.const -8) (i32.const -1) (i32.const -4)))
    (call $proc_exit (i32.const 3))))
