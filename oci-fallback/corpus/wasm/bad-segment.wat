;; Its data doesn't fit into its memory, which shows when the instance is made.
(module
  (memory (export "memory") 1)
  (data (i32.const 70000) "too far")
  (func (export "_start")))
