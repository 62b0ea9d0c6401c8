"""The JSON Schemas of what others see; ``generate.py`` makes them from ``core/public_view.py``."""
