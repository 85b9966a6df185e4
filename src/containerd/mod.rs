//! The gRPC calls: leases, content, unpack, images, runtime spec, tasks.
