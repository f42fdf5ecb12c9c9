//! Tests of the whole of `trust`: each refusal with its own message, a private Sigstore for keyless signatures, and
//! the real cosign 2 and 3 against a real registry.

mod interop;
mod keyless;
mod refusals;
mod support;
