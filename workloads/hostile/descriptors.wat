;; Opens a file of its folder until that fails, keeps all of them open and sleeps
(module
  (import "wasi_snapshot_preview1" "path_open"
    (func $path_open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll_oneoff (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 512) "own")
  (func (export "_start")
    ;; 3: the folder; created where it isn't there; to read and to write.
    (loop $more
      (br_if $more (i32.eqz
        (call $path_open (i32.const 3) (i32.const 0) (i32.const 512) (i32.const 3) (i32.const 1)
          (i64.const 66) (i64.const 66) (i32.const 0) (i32.const 600)))))
    (i32.store (i32.const 16) (i32.const 1))
    (i64.store (i32.const 24) (i64.const 0x7fffffffffffffff))
    (drop (call $poll_oneoff (i32.const 0) (i32.const 128) (i32.const 1) (i32.const 256)))))
