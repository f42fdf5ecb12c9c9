;; An interface of WASI 0.2 with a function of another type than the released one.
(component
  (import "wasi:cli/environment@0.2.0" (instance
    (export "get-arguments" (func (result (list u32))))))
)
