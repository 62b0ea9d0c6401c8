"""The module that [ctlplugin:rolling] names. The commands are in ``ctl.commands``."""

from supervisor_rolling.ctl.commands import make_rolling_controllerplugin

__all__ = ["make_rolling_controllerplugin"]
