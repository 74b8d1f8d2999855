//! libFuzzer's entry to [`waymeet_fuzz::coap_client`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| waymeet_fuzz::coap_client(data));
