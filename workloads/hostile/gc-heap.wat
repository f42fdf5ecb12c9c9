;; Keeps ever more arrays on the heap of the garbage collector, which is no linear memory
(module
  (type $bytes (array (mut i8)))
  (type $list (struct (field (ref $bytes)) (field (ref null $list))))
  (memory (export "memory") 1)
  (func (export "_start") (local $list (ref null $list))
    (loop $more
      (local.set $list (struct.new $list (array.new_default $bytes (i32.const 65536)) (local.get $list)))
      (br $more))))
