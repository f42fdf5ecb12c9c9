#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vyr::fuzz::run("layer", data));
