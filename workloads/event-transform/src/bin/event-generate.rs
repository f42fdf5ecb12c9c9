//! See the library: this is only how it is started.

use std::process::ExitCode;

fn main() -> ExitCode {
    event_transform::generate(std::env::args().skip(1))
}
