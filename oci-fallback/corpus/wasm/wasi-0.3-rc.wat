;; A draft of WASI 0.3.
(component
  (import "wasi:clocks/monotonic-clock@0.3.0-rc-2025-09-16" (instance
    (export "now" (func (result u64)))))
)
