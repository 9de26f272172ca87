//! Logs that etcd wrote.
