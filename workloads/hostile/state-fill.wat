;; Writes more into a state than that may hold: by writing, by setting a length, by writing far behind its end
(module
  (import "wasi_snapshot_preview1" "path_open"
    (func $path_open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_pwrite" (func $fd_pwrite (param i32 i32 i32 i64 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_filestat_set_size" (func $set_size (param i32 i64) (result i32)))
  (import "wasi_snapshot_preview1" "fd_allocate" (func $allocate (param i32 i64 i64) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
  (memory (export "memory") 2)
  (data (i32.const 512) "fill")
  (func $denied (param $errno i32)
    (if (i32.eqz (local.get $errno)) (then (call $proc_exit (i32.const 66)))))
  (func (export "_start") (local $fd i32) (local $n i32)
    (if (call $path_open (i32.const 3) (i32.const 0) (i32.const 512) (i32.const 4) (i32.const 1)
        (i64.const 0x1fffffff) (i64.const 0x1fffffff) (i32.const 0) (i32.const 600))
      (then (call $proc_exit (i32.const 1))))
    (local.set $fd (i32.load (i32.const 600)))
    (i32.store (i32.const 0) (i32.const 0x10000))
    (i32.store (i32.const 4) (i32.const 0x10000))
    (call $denied (call $set_size (local.get $fd) (i64.const 0x10000000000)))
    (call $denied (call $allocate (local.get $fd) (i64.const 0) (i64.const 0x10000000000)))
    (call $denied (call $fd_pwrite (local.get $fd) (i32.const 0) (i32.const 1) (i64.const 0x10000000000) (i32.const 608)))
    ;; The state holds 1 MiB.
    (loop $more
      (local.set $n (i32.add (local.get $n) (i32.const 1)))
      (if (i32.gt_u (local.get $n) (i32.const 32)) (then (call $proc_exit (i32.const 66))))
      (br_if $more (i32.eqz (call $fd_write (local.get $fd) (i32.const 0) (i32.const 1) (i32.const 608)))))
    (call $proc_exit (i32.const 3))))
