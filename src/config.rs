//! The validated configuration of `fnbuild serve`.
