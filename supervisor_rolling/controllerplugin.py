"""The name that supervisord.conf gives for the commands of supervisorctl: see ``ctl.commands``."""

from supervisor_rolling.ctl.commands import make_rolling_controllerplugin

__all__ = ["make_rolling_controllerplugin"]
