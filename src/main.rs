//! The `vyr` program: everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    vyr::cli::main()
}
