"""Pure decisions: no clock, no I/O, no logging (``tests/unit/test_imports.py`` enforces it). Read ``machine`` first."""
