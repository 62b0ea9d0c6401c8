"""What runs in the listener: ``reconciler``, the turn, and its adapters to supervisord, the kernel and HTTP."""
