;; Takes memory page by page and touches each, until it was told no a thousand times
(module
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
  (memory (export "memory") 1)
  (func (export "_start") (local $page i32) (local $denied i32)
    (loop $more
      (local.set $page (memory.grow (i32.const 1)))
      (if (i32.eq (local.get $page) (i32.const -1))
        (then (local.set $denied (i32.add (local.get $denied) (i32.const 1))))
        (else (i32.store (i32.shl (local.get $page) (i32.const 16)) (i32.const 1))))
      (br_if $more (i32.lt_u (local.get $denied) (i32.const 1000))))
    ;; It is run with 64 MiB.
    (call $proc_exit (select (i32.const 66) (i32.const 3) (i32.gt_u (memory.size) (i32.const 1024))))))
