"""The name that supervisord.conf gives for the XML-RPC namespace: see ``plugin.rpc``."""

from supervisor_rolling.plugin.rpc import make_rolling_rpcinterface

__all__ = ["make_rolling_rpcinterface"]
