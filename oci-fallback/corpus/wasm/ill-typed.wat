;; Its function leaves a float where it promises an integer.
(module
  (memory (export "memory") 1)
  (func $number (result i32) (f32.const 1))
  (func (export "_start") (drop (call $number))))
