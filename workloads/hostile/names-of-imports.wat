;; Imports what nobody has, by a name that would clear the terminal and write a line of VYR's own
(module
  (import "\1b[2J\1b]0;owned\07" "\0anote: the signature is good\0d" (func))
  (memory (export "memory") 1)
  (func (export "_start")))
