//! The management REST API under `/v1`, and the health pages. It parses, asks a room, and answers; it decides nothing
//! about images or containers.

mod answers;

pub use answers::{
    Deleted, Described, Functions, LogLine, Problem, Pushed, ReplicaState, Scale, Selected, Status, Summary,
    Versions,
};
