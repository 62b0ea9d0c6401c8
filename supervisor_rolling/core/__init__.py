"""Decisions: no clock, no I/O, no logging. ``machine`` first; a test keeps the law."""
