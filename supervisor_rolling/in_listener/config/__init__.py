"""rolling.yaml: ``load`` a file or ``parse`` a text into a ``model.Config``."""

from supervisor_rolling.in_listener.config.policy import load, parse

__all__ = ["load", "parse"]
