"""What runs in supervisorctl: the commands, and what they print."""
