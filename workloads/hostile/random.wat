;; Asks for 56 MiB of random bytes twice, then for 4 GiB at once
(module
  (import "wasi_snapshot_preview1" "random_get" (func $random_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
  (memory (export "memory") 960)
  (func (export "_start") (local $n i32)
    (loop $more
      (drop (call $random_get (i32.const 0x10000) (i32.const 0x3800000)))
      (local.set $n (i32.add (local.get $n) (i32.const 1)))
      (br_if $more (i32.lt_u (local.get $n) (i32.const 2))))
    (call $proc_exit (select (i32.const 3) (i32.const 66) (call $random_get (i32.const 0) (i32.const -1))))))
