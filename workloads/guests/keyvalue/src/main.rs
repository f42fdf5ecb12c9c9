//! Uses `wasi:keyvalue`: `keyvalue ALIAS COMMAND…`. Answers go to stdout, a line each; an error goes to stderr as one of
//! `no-such-store`, `access-denied` and `other: …`, with code 1. A swap that lost ends with 3.

use std::process::ExitCode;
use std::time::Instant;

mod wasi {
    wit_bindgen::generate!({ path: "../../../wit", world: "wasi:keyvalue/imports", generate_all });
}

use wasi::wasi::keyvalue::{atomics, batch, store};

const USAGE: &str = "keyvalue ALIAS COMMAND
  set KEY VALUE | get KEY | delete KEY | exists KEY | list | incr KEY DELTA
  cas KEY VALUE             sets it if nobody else does
  cas-late KEY OTHER VALUE  is too late, then swaps with what it gets back
  set-many KEY=VALUE… | get-many KEY… | delete-many KEY…
  fill N | check N          keys k0 to k(N-1), each with its number
  quota SIZE                sets values of SIZE bytes until it fails, and counts them
  open-many N               opens N buckets and holds them
  acknowledge N             sets k0 to k(N-1), and tells each by a line
  bench-set N [KEYS] [SIZE] sets N values, over KEYS keys
  bench-get N [KEYS]        gets N values
";

fn said(error: store::Error) -> String {
    match error {
        store::Error::NoSuchStore => "no-such-store".into(),
        store::Error::AccessDenied => "access-denied".into(),
        store::Error::Other(why) => format!("other: {why}"),
    }
}

fn shown(value: Option<Vec<u8>>) -> String {
    value.map_or("(none)".into(), |value| String::from_utf8_lossy(&value).into_owned())
}

fn number(text: Option<&String>, default: Option<u64>) -> Result<u64, String> {
    match (text, default) {
        (Some(text), _) => text.parse().map_err(|error| format!("{text}: {error}")),
        (None, Some(default)) => Ok(default),
        (None, None) => Err("a number is missing".into()),
    }
}

/// How fast: a line of JSON.
fn rate(what: &str, count: u64, began: Instant) {
    let micros = began.elapsed().as_micros().max(1);
    println!("{{\"what\":\"{what}\",\"count\":{count},\"wall_us\":{micros}}}");
}

fn run(alias: &str, command: &str, args: &[String]) -> Result<ExitCode, String> {
    let bucket = store::open(alias).map_err(said)?;
    match (command, args) {
        ("set", [key, value]) => bucket.set(key, value.as_bytes()).map_err(said)?,
        ("get", [key]) => println!("{}", shown(bucket.get(key).map_err(said)?)),
        ("delete", [key]) => bucket.delete(key).map_err(said)?,
        ("exists", [key]) => println!("{}", bucket.exists(key).map_err(said)?),
        ("list", []) => {
            let mut cursor = None;
            loop {
                let page = bucket.list_keys(cursor.as_deref()).map_err(said)?;
                page.keys.iter().for_each(|key| println!("{key}"));
                cursor = page.cursor;
                if cursor.is_none() {
                    break;
                }
            }
        }
        ("incr", [key, delta]) => {
            let delta = delta.parse().map_err(|error| format!("{delta}: {error}"))?;
            println!("{}", atomics::increment(&bucket, key, delta).map_err(said)?);
        }
        ("cas", [key, value]) => {
            let cas = atomics::Cas::new(&bucket, key).map_err(said)?;
            println!("{}", shown(cas.current().map_err(said)?));
            match atomics::swap(cas, value.as_bytes()) {
                Ok(()) => {}
                Err(atomics::CasError::StoreError(error)) => return Err(said(error)),
                Err(atomics::CasError::CasFailed(_)) => return Ok(ExitCode::from(3)),
            }
        }
        ("cas-late", [key, other, value]) => {
            let cas = atomics::Cas::new(&bucket, key).map_err(said)?;
            bucket.set(key, other.as_bytes()).map_err(said)?;
            let Err(atomics::CasError::CasFailed(again)) = atomics::swap(cas, b"never") else {
                return Err("it was not too late".into());
            };
            println!("{}", shown(again.current().map_err(said)?));
            if atomics::swap(again, value.as_bytes()).is_err() {
                return Ok(ExitCode::from(3));
            }
        }
        ("set-many", pairs) => {
            let pairs = pairs.iter().filter_map(|pair| pair.split_once('='));
            let pairs: Vec<_> = pairs.map(|(key, value)| (key.to_owned(), value.as_bytes().to_vec())).collect();
            batch::set_many(&bucket, &pairs).map_err(said)?;
        }
        ("get-many", keys) => {
            for found in batch::get_many(&bucket, keys).map_err(said)? {
                match found {
                    Some((key, value)) => println!("{key}={}", shown(Some(value))),
                    None => println!("(none)"),
                }
            }
        }
        ("delete-many", keys) => batch::delete_many(&bucket, keys).map_err(said)?,
        ("fill", [n]) => {
            for n in 0..number(Some(n), None)? {
                bucket.set(&format!("k{n}"), n.to_string().as_bytes()).map_err(said)?;
            }
        }
        ("check", [n]) => {
            for n in 0..number(Some(n), None)? {
                let value = shown(bucket.get(&format!("k{n}")).map_err(said)?);
                if value != n.to_string() {
                    return Err(format!("k{n} is {value}"));
                }
            }
        }
        ("quota", [size]) => {
            let value = vec![b'q'; usize::try_from(number(Some(size), None)?).map_err(|error| error.to_string())?];
            let mut count = 0;
            let why = loop {
                match bucket.set(&format!("q{count}"), &value) {
                    Ok(()) => count += 1,
                    Err(error) => break said(error),
                }
            };
            println!("{count} {why}");
        }
        ("open-many", [n]) => {
            let mut held = Vec::new();
            for _ in 0..number(Some(n), None)? {
                held.push(store::open(alias).map_err(said)?);
            }
            println!("{}", held.len());
        }
        ("acknowledge", [n]) => {
            use std::io::Write as _;
            let mut out = std::io::stdout();
            for n in 0..number(Some(n), None)? {
                bucket.set(&format!("k{n}"), n.to_string().as_bytes()).map_err(said)?;
                out.write_all(format!("{n}\n").as_bytes()).map_err(|error| error.to_string())?;
            }
        }
        ("bench-set", [n, rest @ ..]) => {
            let (n, keys) = (number(Some(n), None)?, number(rest.first(), Some(1000))?.max(1));
            let size = usize::try_from(number(rest.get(1), Some(100))?).map_err(|error| error.to_string())?;
            let (names, value): (Vec<_>, _) = ((0..keys).map(|n| format!("bench-{n}")).collect(), vec![b'v'; size]);
            let began = Instant::now();
            for name in names.iter().cycle().take(usize::try_from(n).map_err(|error| error.to_string())?) {
                bucket.set(name, &value).map_err(said)?;
            }
            rate("set", n, began);
        }
        ("bench-get", [n, rest @ ..]) => {
            let (n, keys) = (number(Some(n), None)?, number(rest.first(), Some(1000))?.max(1));
            let names: Vec<_> = (0..keys).map(|n| format!("bench-{n}")).collect();
            let began = Instant::now();
            for name in names.iter().cycle().take(usize::try_from(n).map_err(|error| error.to_string())?) {
                if bucket.get(name).map_err(said)?.is_none() {
                    return Err(format!("{name} has no value"));
                }
            }
            rate("get", n, began);
        }
        _ => return Err(USAGE.into()),
    }
    Ok(ExitCode::SUCCESS)
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let done = match args.as_slice() {
        [alias, command, args @ ..] => run(alias, command, args),
        _ => Err(USAGE.into()),
    };
    done.unwrap_or_else(|why| {
        eprintln!("{why}");
        ExitCode::FAILURE
    })
}
