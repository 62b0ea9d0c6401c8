"""``supervisor_rolling setup``: looks at the running supervisord, and writes the two files that it needs.

Here is the I/O: what a host has (``host``, ``configuration``), the files (``files``), the dialogue (``command``). What
follows from it is pure, in ``core/setup_plan.py``. The sockets and the load balancer are looked at by the listener's
program (``listener/inspection.py``), because only that may import the libraries for it.
"""
