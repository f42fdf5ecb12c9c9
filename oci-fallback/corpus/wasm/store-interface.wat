;; A component that wants an interface of somebody's own.
(component
  (import "acme:db/rows@1.2.0" (instance
    (export "count" (func (result u32)))))
)
