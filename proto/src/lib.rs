//! Protocol-buffer messages and services of Trunkline, generated from the `.proto` files beside this crate. No logic.

#![forbid(unsafe_code)]

macro_rules! generated {
    ($(#[$outer:meta])* $name:ident) => {
        $(#[$outer])*
        pub mod $name {
            /// Version 1.
            #[allow(
                missing_docs,
                clippy::all,
                clippy::allow_attributes_without_reason,
                reason = "generated; the comments are in the .proto file"
            )]
            pub mod v1 {
                include!(concat!(env!("OUT_DIR"), "/trunkline.", stringify!($name), ".v1.rs"));
            }
        }
    };
}

generated!(
    /// Who may call which method.
    options
);
generated!(
    /// What servers, control plane and operators say to each other about the fleet.
    fleet
);
generated!(
    /// A server and a control-plane replica.
    node
);
generated!(
    /// Everything an operator can ask and do.
    operator
);
generated!(
    /// Servers of different sites.
    backbone
);
generated!(
    /// What is kept in the store.
    store
);

/// For each method its path and the number of the least `options::v1::Role` that may call it; 0 is nobody.
pub const METHOD_ROLES: &[(&str, i32)] = include!(concat!(env!("OUT_DIR"), "/roles.rs"));

/// A `FileDescriptorSet` of every file, for reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.binpb"));
