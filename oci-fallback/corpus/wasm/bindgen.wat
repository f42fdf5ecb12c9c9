;; What wasm-bindgen writes for a browser.
(module
  (import "wbg" "__wbg_log_0cc1b7768397bcfe" (func (param i32 i32)))
  (import "wbg" "__wbindgen_throw" (func (param i32 i32)))
  (memory (export "memory") 17)
  (func (export "_start")))
