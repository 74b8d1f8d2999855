//! libFuzzer's entry to [`waymeet_fuzz::raw_lines`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| waymeet_fuzz::raw_lines(data));
