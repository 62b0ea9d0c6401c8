"""What runs inside supervisord, behind ``rpcinterface``: the standard library and supervisor, nothing that blocks."""
