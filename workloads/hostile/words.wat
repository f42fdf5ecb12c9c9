;; Reads its arguments and variables without end, a megabyte each time
(module
  (import "wasi_snapshot_preview1" "args_sizes_get" (func $args_sizes (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "args_get" (func $args (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "environ_sizes_get" (func $environ_sizes (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "environ_get" (func $environ (param i32 i32) (result i32)))
  (memory (export "memory") 128)
  (func (export "_start")
    (loop $again
      (drop (call $args_sizes (i32.const 0) (i32.const 4)))
      (drop (call $args (i32.const 0x10000) (i32.const 0x100000)))
      (drop (call $environ_sizes (i32.const 0) (i32.const 4)))
      (drop (call $environ (i32.const 0x10000) (i32.const 0x100000)))
      (br $again))))
