//! Network namespaces and CNI plugins.
