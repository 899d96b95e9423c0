//! Protocol-buffer messages of Trunkline, generated from the `.proto` files beside this crate. No logic.

#![forbid(unsafe_code)]

/// What a server keeps over restarts.
pub mod store {
    /// Version 1.
    #[allow(missing_docs, clippy::all, reason = "generated; the comments are in the .proto file")]
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/trunkline.store.v1.rs"));
    }
}
