//! Behaviour of the planner over the embedded store.
