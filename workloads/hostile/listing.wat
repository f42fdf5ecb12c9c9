;; Makes two thousand files and lists them without end, a few bytes at a time: the host reads all of them for each
(module
  (import "wasi_snapshot_preview1" "path_open"
    (func $path_open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_close" (func $fd_close (param i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_readdir" (func $fd_readdir (param i32 i32 i32 i64 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 512) "....")
  (func (export "_start") (local $n i32)
    (loop $more
      (i32.store (i32.const 512)
        (i32.add (i32.const 0x61616161)
          (i32.or
            (i32.or (i32.and (local.get $n) (i32.const 15))
              (i32.shl (i32.and (i32.shr_u (local.get $n) (i32.const 4)) (i32.const 15)) (i32.const 8)))
            (i32.shl (i32.and (i32.shr_u (local.get $n) (i32.const 8)) (i32.const 15)) (i32.const 16)))))
      (if (i32.eqz (call $path_open (i32.const 3) (i32.const 0) (i32.const 512) (i32.const 4) (i32.const 1)
          (i64.const 66) (i64.const 66) (i32.const 0) (i32.const 600)))
        (then (drop (call $fd_close (i32.load (i32.const 600))))))
      (local.set $n (i32.add (local.get $n) (i32.const 1)))
      (br_if $more (i32.lt_u (local.get $n) (i32.const 2000))))
    (loop $again
      (drop (call $fd_readdir (i32.const 3) (i32.const 1024) (i32.const 32) (i64.const 0) (i32.const 600)))
      (br $again))))
