"""Peers: which nodes to dial, their feeds, and how a node joins."""
