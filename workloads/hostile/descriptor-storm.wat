;; Closes and renumbers descriptors that it has and has not, its own folders and streams among them
(module
  (import "wasi_snapshot_preview1" "fd_close" (func $fd_close (param i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_renumber" (func $fd_renumber (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_open"
    (func $path_open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
  (memory (export "memory") 1)
  (data (i32.const 512) "own")
  (func (export "_start") (local $n i32) (local $fd i32)
    (i32.store (i32.const 4) (i32.const 8))
    (loop $more
      ;; 0 to 15, in no order.
      (local.set $fd (i32.and (i32.shr_u (i32.mul (local.get $n) (i32.const 0x9e3779b1)) (i32.const 13)) (i32.const 15)))
      (drop (call $path_open (i32.const 3) (i32.const 0) (i32.const 512) (i32.const 3) (i32.const 1)
        (i64.const 66) (i64.const 66) (i32.const 0) (i32.const 600)))
      (drop (call $fd_renumber (local.get $fd) (i32.and (local.get $n) (i32.const 15))))
      (drop (call $fd_renumber (i32.const 3) (i32.sub (local.get $n) (i32.const 0x80000000))))
      (drop (call $fd_write (local.get $fd) (i32.const 0) (i32.const 1) (i32.const 608)))
      (drop (call $fd_close (i32.xor (local.get $fd) (i32.const 5))))
      (drop (call $fd_close (i32.sub (i32.const 0) (local.get $n))))
      (local.set $n (i32.add (local.get $n) (i32.const 1)))
      (br_if $more (i32.lt_u (local.get $n) (i32.const 20000))))
    (call $proc_exit (i32.const 3))))
