//! The HTTP trigger: route, wait for a replica, proxy.
