"""The commands, one module each; they import modules that load slowly inside functions."""
