"""What the operator sees, behind ``controllerplugin``: structs to lines."""
