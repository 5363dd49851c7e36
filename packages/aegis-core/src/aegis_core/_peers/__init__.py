"""Peers: whom to dial, the feeds from them, and how a node joins."""
