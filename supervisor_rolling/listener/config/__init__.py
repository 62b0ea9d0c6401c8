"""rolling.yaml: ``load`` a file or ``parse`` a text into a ``policy.Config``; ``mark``: whether to load it again."""

from supervisor_rolling.listener.config.parser import load, parse
from supervisor_rolling.listener.config.trusted_file import mark

__all__ = ["load", "mark", "parse"]
