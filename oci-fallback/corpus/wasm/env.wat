;; An undefined symbol of a bare build.
(module
  (import "env" "host_log" (func $log (param i32 i32)))
  (memory (export "memory") 1)
  (func (export "_start") (call $log (i32.const 0) (i32.const 0))))
