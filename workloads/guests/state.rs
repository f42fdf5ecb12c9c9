//! Works in folders step by step, as its arguments say: `STEP:PATH[:WORD]…`. Prints a line a step, `STEP ok …` or
//! `STEP denied …`.
//!
//! | step | what it does |
//! | --- | --- |
//! | `write:PATH:N` | makes or empties a file and writes N bytes |
//! | `text:PATH:TEXT` | the same with a text |
//! | `append:PATH:N` | writes N bytes at the end |
//! | `at:PATH:OFFSET:N` | writes N bytes at an offset |
//! | `len:PATH:N` | sets the length |
//! | `hold:PATH:N` | as `write`, and keeps the file open to the end |
//! | `read:PATH`, `size:PATH`, `ls:PATH` | prints a text, how many bytes it read, a listing |
//! | `rm:PATH`, `mkdir:PATH`, `rmdir:PATH`, `mv:FROM:TO`, `ln:FROM:TO` | |
//! | `records:FOLDER:NAME:N` | N files `NAME-0` … closed one by one; prints each name once the close said yes |
//! | `sleep:MS`, `exit:CODE`, `trap` | |

use std::fs::{self, File, OpenOptions};
use std::io::{Error, ErrorKind, Result, Seek, SeekFrom, Write};
use std::os::fd::IntoRawFd;

unsafe extern "C" {
    fn close(fd: i32) -> i32;
}

fn number(words: &[&str], at: usize) -> Result<u64> {
    words.get(at).and_then(|word| word.parse().ok()).ok_or_else(|| Error::from(ErrorKind::InvalidInput))
}

fn fill(file: &mut File, bytes: u64) -> Result<()> {
    let block = [b'x'; 1000];
    let mut left = bytes;
    while left > 0 {
        let some = left.min(block.len() as u64) as usize;
        file.write_all(&block[..some])?;
        left -= some as u64;
    }
    Ok(())
}

fn records(folder: &str, name: &str, count: u64) -> Result<String> {
    for n in 0..count {
        let mut file = File::create(format!("{folder}/{name}-{n}"))?;
        file.write_all(format!("record {name}-{n}\n").as_bytes())?;
        // The file is the guest's until the close is answered; what it says is what was acknowledged.
        if unsafe { close(file.into_raw_fd()) } != 0 {
            return Err(Error::last_os_error());
        }
        println!("{name}-{n}");
    }
    Ok(String::new())
}

fn listing(path: &str) -> Result<String> {
    let mut names: Vec<String> = fs::read_dir(path)?
        .map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned()))
        .collect::<Result<_>>()?;
    names.sort();
    Ok(names.join(" "))
}

fn step(words: &[&str], held: &mut Vec<File>) -> Result<String> {
    let path = *words.get(1).unwrap_or(&"");
    let other = *words.get(2).unwrap_or(&"");
    let done = match words[0] {
        "write" => fill(&mut File::create(path)?, number(words, 2)?),
        "text" => fs::write(path, other),
        "append" => fill(&mut OpenOptions::new().append(true).create(true).open(path)?, number(words, 2)?),
        "at" => {
            let mut file = OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
            file.seek(SeekFrom::Start(number(words, 2)?))?;
            fill(&mut file, number(words, 3)?)
        }
        "len" => OpenOptions::new().write(true).open(path)?.set_len(number(words, 2)?),
        "hold" => {
            let mut file = File::create(path)?;
            let done = fill(&mut file, number(words, 2)?);
            held.push(file);
            done
        }
        "read" => return Ok(String::from_utf8_lossy(&fs::read(path)?).into_owned()),
        "size" => return Ok(fs::read(path)?.len().to_string()),
        "ls" => return listing(path),
        "rm" => fs::remove_file(path),
        "mkdir" => fs::create_dir(path),
        "rmdir" => fs::remove_dir(path),
        "mv" => fs::rename(path, other),
        "ln" => fs::hard_link(path, other),
        "records" => return records(path, other, number(words, 3)?),
        "sleep" => {
            std::thread::sleep(std::time::Duration::from_millis(number(words, 1)?));
            Ok(())
        }
        "exit" => std::process::exit(number(words, 1)? as i32),
        "trap" => panic!("as told"),
        _ => Err(ErrorKind::Unsupported.into()),
    };
    done.map(|()| String::new())
}

fn main() {
    let mut held = Vec::new();
    for argument in std::env::args().skip(1) {
        let words: Vec<&str> = argument.split(':').collect();
        match step(&words, &mut held) {
            Ok(text) => println!("{} ok {}", words[0], text.trim_end()),
            Err(error) => println!("{} denied {error}", words[0]),
        }
    }
}
