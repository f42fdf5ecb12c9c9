;; A memory with pages of one byte.
(module
  (memory (export "memory") 10 (pagesize 1))
  (func (export "_start")))
