"""The rotation of a CA: when its steps are due, and what each does."""
