;; Grows two tables until it was told no two thousand times
(module
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
  (memory (export "memory") 1)
  (table $externs 0 externref)
  (table $funcs 0 funcref)
  (func (export "_start") (local $denied i32)
    (loop $more
      (if (i32.eq (table.grow $externs (ref.null extern) (i32.const 10000)) (i32.const -1))
        (then (local.set $denied (i32.add (local.get $denied) (i32.const 1)))))
      (if (i32.eq (table.grow $funcs (ref.null func) (i32.const 10000)) (i32.const -1))
        (then (local.set $denied (i32.add (local.get $denied) (i32.const 1)))))
      (br_if $more (i32.lt_u (local.get $denied) (i32.const 2000))))
    (call $proc_exit
      (select (i32.const 66) (i32.const 3)
        (i32.gt_u (i32.add (table.size $externs) (table.size $funcs)) (i32.const 1000000))))))
