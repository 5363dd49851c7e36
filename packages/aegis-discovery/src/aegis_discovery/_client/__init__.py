"""The client of a mesh: find a node, follow its feed, fail over to another."""
