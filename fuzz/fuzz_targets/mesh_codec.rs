//! libFuzzer's entry to [`waymeet_fuzz::mesh_codec`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| waymeet_fuzz::mesh_codec(data));
