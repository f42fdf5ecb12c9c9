//! Dies in the way its first argument names, inside functions whose names a backtrace should show:
//! `panic`, `unreachable`, `oob` (a read past the end of memory), `overflow` (of the stack).

#[inline(never)]
fn vyr_outer(how: &str) -> u64 {
    std::hint::black_box(vyr_inner(how))
}

#[inline(never)]
fn vyr_inner(how: &str) -> u64 {
    match how {
        "panic" => panic!("the guest panicked on purpose"),
        "oob" => {
            // The last page of a 4 GiB address space: no memory of this guest reaches that far.
            let address = std::hint::black_box(0xffff_ff00_usize as *const u64);
            // SAFETY: there is none; the trap is the purpose.
            unsafe { address.read_volatile() }
        }
        "overflow" => vyr_recurse(std::hint::black_box(1)),
        _ => vyr_unreachable(),
    }
}

#[inline(never)]
fn vyr_unreachable() -> u64 {
    core::arch::wasm32::unreachable()
}

#[inline(never)]
fn vyr_recurse(depth: u64) -> u64 {
    let frame = std::hint::black_box([depth; 64]);
    if depth == u64::MAX {
        return frame[0];
    }
    vyr_recurse(depth + 1) + std::hint::black_box(frame)[63]
}

fn main() {
    let how = std::env::args().nth(1).unwrap_or_else(|| "unreachable".into());
    println!("{}", vyr_outer(&how));
}
