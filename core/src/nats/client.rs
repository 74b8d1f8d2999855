//! The client's side of the protocol. Written on its own branch.
