"""Benchmarks: the daemon and its peers in turn on this machine, with the same load generator (`make bench`)."""
