"""Peers of the seed protocol, whose records nobody signs: codec and vouching."""
