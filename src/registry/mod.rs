//! The wire client of OCI registries: auth, push, pull.
