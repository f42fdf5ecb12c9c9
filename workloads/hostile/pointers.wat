;; Gives the host pointers to what is not its memory: paths, buffers, and lists of four thousand million
(module
  (import "wasi_snapshot_preview1" "path_open"
    (func $path_open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_readdir" (func $fd_readdir (param i32 i32 i32 i64 i32) (result i32)))
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll_oneoff (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "args_get" (func $args (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
  (memory (export "memory") 1)
  (func $denied (param $errno i32)
    (if (i32.eqz (local.get $errno)) (then (call $proc_exit (i32.const 66)))))
  (func (export "_start")
    (call $denied (call $fd_write (i32.const 1) (i32.const 0) (i32.const -1) (i32.const 8)))
    (call $denied (call $poll_oneoff (i32.const 0) (i32.const 0) (i32.const -1) (i32.const 0)))
    (call $denied (call $path_open (i32.const 3) (i32.const 0) (i32.const 0) (i32.const -1) (i32.const 1)
      (i64.const 66) (i64.const 66) (i32.const 0) (i32.const 600)))
    ;; The last of these is the first that is answered by a trap.
    (call $denied (call $args (i32.const -4096) (i32.const -64)))
    (call $denied (call $fd_readdir (i32.const 3) (i32.const -16) (i32.const 64) (i64.const 0) (i32.const -1)))
    (call $proc_exit (i32.const 3))))
