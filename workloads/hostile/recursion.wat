;; Calls itself without end, with much to keep in each frame
(module
  (memory (export "memory") 1)
  (func $down (param $a i64) (param $b i64) (param $c i64) (param $d i64) (result i64)
    (i64.add
      (i64.add (local.get $a) (i64.mul (local.get $b) (local.get $c)))
      (i64.xor (local.get $d)
        (call $down (local.get $b) (local.get $c) (local.get $d) (i64.add (local.get $a) (i64.const 1))))))
  (func (export "_start")
    (drop (call $down (i64.const 1) (i64.const 2) (i64.const 3) (i64.const 4)))))
