//! Trunkline's control plane: many servers become one service.
//!
//! Replicas are stateless over a [`store`]. Servers hold a stream to any of them and are told each epoch of the
//! configuration; operators call any of them. `trunkline up` runs the same code in its own process over the embedded
//! store.

#![forbid(unsafe_code)]

pub mod access;
pub mod configuration;
pub mod configurations;
pub mod connector;
pub mod core;
pub mod event;
pub mod follower;
pub mod hex;
pub mod identity;
pub mod join_token;
pub mod leader;
pub mod listener;
mod migration;
pub mod mutation;
pub mod node_service;
pub mod operator_service;
pub mod options;
pub mod pki;
pub mod planner;
pub mod records;
pub mod replica;
pub mod sealing;
pub mod session;
pub mod settings;
pub mod state;
pub mod store;
pub mod usage;
