;; Opens a file below a folder that somebody outside swaps with a link that leads out, and goes up from one that is moved out
(module
  (import "wasi_snapshot_preview1" "path_open"
    (func $path_open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_close" (func $fd_close (param i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
  (memory (export "memory") 1)
  (data (i32.const 512) "swap/secret")
  (data (i32.const 544) "moving")
  (data (i32.const 560) "../secret")
  (func $open (param $folder i32) (param $at i32) (param $length i32) (param $oflags i32) (result i32)
    (if (result i32)
      (call $path_open (local.get $folder) (i32.const 1) (local.get $at) (local.get $length) (local.get $oflags)
        (i64.const 2) (i64.const 2) (i32.const 0) (i32.const 600))
      (then (i32.const -1))
      (else (i32.load (i32.const 600)))))
  ;; What is outside begins with an O.
  (func $look (param $fd i32)
    (if (i32.eq (local.get $fd) (i32.const -1)) (then (return)))
    (i32.store8 (i32.const 700) (i32.const 0))
    (drop (call $fd_read (local.get $fd) (i32.const 0) (i32.const 1) (i32.const 608)))
    (drop (call $fd_close (local.get $fd)))
    (if (i32.eq (i32.load8_u (i32.const 700)) (i32.const 79)) (then (call $proc_exit (i32.const 66)))))
  (func (export "_start") (local $moving i32)
    (i32.store (i32.const 0) (i32.const 700))
    (i32.store (i32.const 4) (i32.const 1))
    (loop $until
      (local.set $moving (call $open (i32.const 3) (i32.const 544) (i32.const 6) (i32.const 2)))
      (br_if $until (i32.eq (local.get $moving) (i32.const -1))))
    (loop $again
      (call $look (call $open (i32.const 3) (i32.const 512) (i32.const 11) (i32.const 0)))
      (call $look (call $open (local.get $moving) (i32.const 560) (i32.const 9) (i32.const 0)))
      (br $again))))
