//! Layers, splice, build, OCI layout, docker archive. Synchronous, no network, no clock.
