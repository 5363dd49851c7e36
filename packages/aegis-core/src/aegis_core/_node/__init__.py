"""The node: its parts, their options, their start and their stop."""
