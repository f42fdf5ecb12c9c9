;; What emcc writes without -sSTANDALONE_WASM.
(module
  (import "env" "emscripten_memcpy_js" (func (param i32 i32 i32)))
  (import "env" "emscripten_resize_heap" (func (param i32) (result i32)))
  (memory (export "memory") 256)
  (func (export "_start")))
