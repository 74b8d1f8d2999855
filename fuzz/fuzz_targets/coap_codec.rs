//! libFuzzer's entry to [`waymeet_fuzz::coap_codec`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| waymeet_fuzz::coap_codec(data));
