;; Declares 64 TiB of memory with addresses of 64 bits
(module
  (memory (export "memory") i64 0x40000000)
  (func (export "_start")))
