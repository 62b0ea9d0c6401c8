"""Benchmarks: run by hand, as root, each in network namespaces of its own."""
