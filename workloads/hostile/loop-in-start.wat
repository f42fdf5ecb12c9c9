;; Never ends its start function, so that it is never instantiated
(module
  (memory (export "memory") 1)
  (func $start (loop $again (br $again)))
  (start $start)
  (func (export "_start")))
