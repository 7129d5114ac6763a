"""The command line's commands: each one's arguments, and what it does."""
