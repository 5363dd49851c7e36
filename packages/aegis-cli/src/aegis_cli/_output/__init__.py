"""How answers of commands reach a terminal, a pipe or a file."""
