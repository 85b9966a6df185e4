//! Every test that drives more than one room, in one binary: the real program against real parts.

mod api;
mod base;
mod build;
mod checks;
mod cli;
mod dependencies;
mod etcd;
mod export;
mod gateway;
mod house;
mod memory;
mod packages;
mod push;
mod registries;
mod registry_clients;
mod registry_collect;
mod registry_durability;
mod registry_kit;
mod registry_protocol;
mod replica;
mod secrets;
mod serve;
mod store;
mod support;
mod transfer;
mod walkthrough;
