//! libFuzzer's entry to [`waymeet_fuzz::secrets`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| waymeet_fuzz::secrets(data));
