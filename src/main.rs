//! The `vyr` program: everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    // A process that keeps a container is this program, too.
    vyr_oci_fallback::keeper::run_if_asked();
    // So is one that stays outside when a node confines itself.
    vyr::confine::run_if_asked();
    vyr::cli::main()
}
