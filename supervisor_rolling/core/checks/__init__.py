"""What is wrong with a set-up, found before it costs a request: from what was read to findings, a file for each thing
that is read.

A finding refuses a rollout where the rollout would lose requests, or fail on its first process whatever the deploy is
like; the others are warnings."""
