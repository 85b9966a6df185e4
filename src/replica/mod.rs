//! From a record to an answering address: start, stop, scale, reconcile, logs.
