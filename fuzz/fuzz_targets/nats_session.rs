//! libFuzzer's entry to [`waymeet_fuzz::nats_session`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| waymeet_fuzz::nats_session(data));
