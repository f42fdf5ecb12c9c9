;; Eighty million table elements from the start.
(module
  (table (export "t") 80000000 funcref)
  (memory (export "memory") 1)
  (func (export "_start")))
