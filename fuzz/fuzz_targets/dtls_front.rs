//! libFuzzer's entry to [`waymeet_fuzz::dtls_front`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| waymeet_fuzz::dtls_front(data));
