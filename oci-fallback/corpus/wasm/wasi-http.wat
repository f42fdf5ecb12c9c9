;; A component that wants to be called by HTTP.
(component
  (import "wasi:http/types@0.2.0" (instance
    (export "fields" (type (sub resource)))))
)
