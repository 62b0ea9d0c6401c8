"""Rolling restarts for Supervisor."""

__version__ = "0.1.0"
