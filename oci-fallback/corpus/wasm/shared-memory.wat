;; Threads share a memory; this runtime has the proposal, but no shared memories.
(module
  (memory (export "memory") 1 2 shared)
  (func (export "_start") (drop (i32.atomic.rmw.add (i32.const 0) (i32.const 1)))))
