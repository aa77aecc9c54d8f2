//! Labs that prove flannel: hosts that are not there until a test makes them, and a real etcd between them.

pub mod netns;
