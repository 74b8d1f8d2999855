//! libFuzzer's entry to [`waymeet_fuzz::nats_parser`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| waymeet_fuzz::nats_parser(data));
