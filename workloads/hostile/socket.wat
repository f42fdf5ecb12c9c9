;; A component that makes a TCP socket, and was given no network
(component
  (import "wasi:sockets/network@0.2.0" (instance $network
    (type $codes (enum
      "unknown" "access-denied" "not-supported" "invalid-argument" "out-of-memory" "timeout" "concurrency-conflict"
      "not-in-progress" "would-block" "invalid-state" "new-socket-limit" "address-not-bindable" "address-in-use"
      "remote-unreachable" "connection-refused" "connection-reset" "connection-aborted" "datagram-too-large"
      "name-unresolvable" "temporary-resolver-failure" "permanent-resolver-failure"))
    (export "error-code" (type (eq $codes)))
    (type $families (enum "ipv4" "ipv6"))
    (export "ip-address-family" (type (eq $families)))))
  (alias export $network "error-code" (type $error))
  (alias export $network "ip-address-family" (type $family))
  (import "wasi:sockets/tcp@0.2.0" (instance $tcp (export "tcp-socket" (type (sub resource)))))
  (alias export $tcp "tcp-socket" (type $socket))
  (import "wasi:sockets/tcp-create-socket@0.2.0" (instance $create
    (alias outer 1 $error (type $outer-error))
    (export "error-code" (type $error (eq $outer-error)))
    (alias outer 1 $family (type $outer-family))
    (export "ip-address-family" (type $family (eq $outer-family)))
    (alias outer 1 $socket (type $outer-socket))
    (export "tcp-socket" (type $socket (eq $outer-socket)))
    (export "create-tcp-socket"
      (func (param "address-family" $family) (result (result (own $socket) (error $error)))))))
  (core module $own (memory (export "memory") 1))
  (core instance $own (instantiate $own))
  (alias core export $own "memory" (core memory $memory))
  (core func $create (canon lower (func $create "create-tcp-socket") (memory $memory)))
  (core module $code
    (import "" "memory" (memory 1))
    (import "" "create" (func $create (param i32 i32)))
    ;; Fails, as a guest that was denied does; a socket would be success.
    (func (export "run") (result i32)
      (call $create (i32.const 0) (i32.const 16))
      (i32.load8_u (i32.const 16))))
  (core instance $code (instantiate $code
    (with "" (instance (export "create" (func $create)) (export "memory" (memory $memory))))))
  (func $run (result (result)) (canon lift (core func $code "run")))
  (instance $command (export "run" (func $run)))
  (export "wasi:cli/run@0.2.0" (instance $command)))
