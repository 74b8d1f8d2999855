//! libFuzzer's entry to [`waymeet_fuzz::client_certificate`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| waymeet_fuzz::client_certificate(data));
