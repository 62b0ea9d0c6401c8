"""Programs that repeat for hours what the tests do a few times."""
