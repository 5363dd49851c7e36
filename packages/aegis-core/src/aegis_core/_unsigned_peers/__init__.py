"""Peers of the unsigned protocol, whose records have no signature: codec and vouching."""
