;; Takes all memory that it may have and fills it again and again, each time by one instruction
(module
  (memory (export "memory") 1)
  (func (export "_start")
    (loop $more (br_if $more (i32.ne (memory.grow (i32.const 64)) (i32.const -1))))
    (loop $again
      (memory.fill (i32.const 0) (i32.const 255) (i32.shl (memory.size) (i32.const 16)))
      (br $again))))
