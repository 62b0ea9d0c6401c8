"""What runs in the listener: ``roller``, the turn, and its adapters to supervisord, the kernel and HTTP."""
