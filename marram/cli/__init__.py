"""The `marram` command: one file for each noun; a command imports what it needs when it runs."""
