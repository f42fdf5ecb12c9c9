;; Declares 4 GiB of memory to start with
(module
  (memory (export "memory") 65536)
  (func (export "_start")))
