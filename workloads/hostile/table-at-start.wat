;; Declares a table of twenty million elements
(module
  (memory (export "memory") 1)
  (table 20000000 funcref)
  (func (export "_start")))
