"""rolling.yaml: ``load`` a file or ``parse`` a text into a ``policy.Config``; ``mark``: whether to load it again."""

from supervisor_rolling.listener.config.files import mark
from supervisor_rolling.listener.config.policy import load, parse

__all__ = ["load", "mark", "parse"]
