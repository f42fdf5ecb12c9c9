//! Says hello and repeats its arguments, one a line. Ends with 0.

fn main() {
    println!("hello from wasm");
    for argument in std::env::args().skip(1) {
        println!("{argument}");
    }
}
