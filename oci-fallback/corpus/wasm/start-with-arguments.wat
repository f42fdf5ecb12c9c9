;; An entry point that nobody can call without arguments.
(module
  (memory (export "memory") 1)
  (func (export "_start") (param i32 i32)))
