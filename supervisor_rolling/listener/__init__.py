"""The listener: ``reconciler.py`` and its parts, and their adapters to supervisord, the kernel and HTTP."""
