//! The engine against a model of its host: each hard case as a claim, every host call failing in
//! turn, and seeded schedules in which everything happens at once.
//!
//! `model` is the host and checks the design's invariants after each call; `sabotage` shows that
//! these checks can fail.

mod bad_luck;
mod claims;
mod failures;
mod heal;
mod model;
mod on_demand;
mod reset;
mod sabotage;
mod schedules;
