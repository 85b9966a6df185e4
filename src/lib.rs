//! fnbuild: from a function's source to an HTTP answer, without a build daemon.
//!
//! The house. A room may import from the rooms named behind it and from no other; `tests/it/house.rs` holds this
//! table. Read it downhill: what the user hands in enters at `source`, leaves `image` as an OCI image, passes
//! `registry` into a record in `store`, and `replica` answers for it behind `gateway`.
//!
//! | floor | room | what lives there | may use |
//! |---|---|---|---|
//! | 7 | [`cli`] | one file per verb: parse, call, print | all |
//! | 7 | [`serve`], [`config`] | the validated configuration; assembles the rooms, stops them in order | all but `cli` |
//! | 6 | [`api`] | the management REST API | `auth`, `cluster`, `publish`, `queue`, `replica`, `secrets`, `store`, `telemetry`, `function`, `oci` |
//! | 6 | [`queue`] | asynchronous calls and schedules | `cluster`, `gateway`, `store`, `telemetry`, `function`, `tls` |
//! | 5 | [`gateway`] | the HTTP trigger: route, wait for a replica, proxy | `replica`, `listen`, `telemetry`, `function` |
//! | 5 | [`registry_server`] | the embedded OCI registry | `listen`, `oci` |
//! | 4 | [`publish`] | the one way from a source to a pushed image | `base`, `dependencies`, `registry`, `image`, `source`, `telemetry`, `function`, `oci` |
//! | 4 | [`replica`] | from a record to an answering address | `cluster`, `containerd`, `network`, `registry`, `secrets`, `store`, `telemetry`, `function`, `oci` |
//! | 4 | [`auth`] | tokens and roles: who may do what, and what was done | `store` |
//! | 4 | [`export`] | a record as Kubernetes, Knative or compose manifests | `function`, `oci` |
//! | 4 | [`cluster`] | the nodes that share a store, and each one's share of a function's scale | `store`, `function` |
//! | 3 | [`containerd`] | the gRPC calls: leases, content, unpack, images, runtime spec, tasks | `oci` |
//! | 3 | [`network`] | network namespaces and CNI plugins | |
//! | 3 | [`registry`] | the wire client: auth, push, pull | `image`, `oci`, `tls` |
//! | 3 | [`store`] | `FunctionStore`, in sled and in etcd | `function` |
//! | 3 | [`secrets`] | values at rest, sealed | `store`, `function` |
//! | 3 | [`dependencies`] | `requirements.txt` → a locked, cached layer, by `uv` | `image`, `source`, `oci` |
//! | 3 | [`base`] | recipes, locks, Debian packages and wheels → a base image | `image`, `oci` |
//! | 2 | [`image`] | layers, splice, build, OCI layout, docker archive. Synchronous, no network, no clock | `source`, `oci` |
//! | 1 | [`project`] | a new function's files; `fnbuild.toml` and `stack.yml` | `function` |
//! | 1 | [`source`] | what the user hands in, made safe: zip, `.py`, folder → `Source` | `function`, `oci` |
//! | 1 | [`listen`] | from a socket to a service: threads, TLS, an orderly end | |
//! | 1 | [`telemetry`] | what a server tells of itself: numbers, traces | |
//! | 0 | [`function`] | names, settings, records, versions: plain data | `oci` |
//! | 0 | [`oci`] | digest, reference, descriptor, manifest, config: plain data, sorted maps | |
//! | 0 | [`tls`] | whose certificates are trusted, and what a connection to others goes by | |
//!
//! The four drivers (`containerd`, `network`, `registry`, `store`) never import each other: `publish` and `replica`
//! alone join them.

pub mod api;
pub mod auth;
pub mod base;
pub mod cli;
pub mod cluster;
pub mod config;
pub mod containerd;
pub mod dependencies;
pub mod export;
pub mod function;
pub mod gateway;
pub mod image;
pub mod listen;
pub mod network;
pub mod oci;
pub mod project;
pub mod publish;
pub mod queue;
pub mod registry;
pub mod registry_server;
pub mod replica;
pub mod secrets;
pub mod serve;
pub mod source;
pub mod store;
pub mod telemetry;
pub mod tls;
