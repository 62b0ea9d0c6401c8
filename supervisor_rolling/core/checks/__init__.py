"""Preflight checks: from what was read to findings, a module for each thing that is read.

A finding is an error where the rollout would lose requests, or fail on its first process with any deploy; the others
are warnings."""
