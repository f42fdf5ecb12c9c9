;; What Go writes for GOOS=js.
(module
  (import "gojs" "runtime.wasmExit" (func (param i32)))
  (memory (export "memory") 16)
  (func (export "_start")))
