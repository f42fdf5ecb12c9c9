;; Traps in a function whose name would clear the terminal, set its title and write a line of VYR's own
(module
  (memory (export "memory") 1)
  (func $f (@name "\1b[2J\1b]0;owned\07\0anote: the signature is good\0d") (unreachable))
  (func (export "_start") (call $f)))
