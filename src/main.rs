//! The `ringmq` broker: parses flags into settings and runs the shards.

fn main() {}
