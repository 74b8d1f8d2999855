//! libFuzzer's entry to [`waymeet_fuzz::coap_blocks`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| waymeet_fuzz::coap_blocks(data));
