//! Frames as they lie on the wire.
