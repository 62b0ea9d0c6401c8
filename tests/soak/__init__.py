"""Faults tried many times, for as long as one likes: what the tests try a few times each."""
