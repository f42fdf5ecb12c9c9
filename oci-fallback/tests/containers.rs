//! Containers for real: each case with each engine, as root and as an ordinary user. Has its own `main`, since a keeper is
//! this very program again.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::exit,
    reason = "these are tests, which clippy can't see where they have their own `main`"
)]

mod support;

use libtest_mimic::{Arguments, Trial};

fn main() {
    vyr_oci_fallback::keeper::run_if_asked();
    support::run_part_if_asked();
    let arguments = Arguments::from_args();
    let mut trials = Vec::new();
    for (name, case) in support::cases::ALL {
        for engine in support::ENGINES {
            for user in [false, true] {
                let who = if user { "user" } else { "root" };
                trials.push(Trial::test(format!("{engine}::{who}::{name}"), move || {
                    let ended = if user { support::as_user(engine, name) } else { support::as_root(engine, *case) };
                    ended.map_err(Into::into)
                }));
            }
        }
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    support::clean_up();
    conclusion.exit();
}
