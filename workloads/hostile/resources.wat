;; A component that asks for ever more timers and drops none: each is the host's memory, not its own
(component
  (import "wasi:io/poll@0.2.0" (instance $poll (export "pollable" (type (sub resource)))))
  (alias export $poll "pollable" (type $pollable))
  (import "wasi:clocks/monotonic-clock@0.2.0" (instance $clock
    (alias outer 1 $pollable (type $outer))
    (export "pollable" (type $pollable (eq $outer)))
    (export "subscribe-duration" (func (param "when" u64) (result (own $pollable))))))
  (core func $subscribe (canon lower (func $clock "subscribe-duration")))
  (core module $code
    (import "" "subscribe" (func $subscribe (param i64) (result i32)))
    (func (export "run") (result i32)
      (loop $again (drop (call $subscribe (i64.const -1))) (br $again))
      (unreachable)))
  (core instance $code (instantiate $code (with "" (instance (export "subscribe" (func $subscribe))))))
  (func $run (result (result)) (canon lift (core func $code "run")))
  (instance $command (export "run" (func $run)))
  (export "wasi:cli/run@0.2.0" (instance $command)))
