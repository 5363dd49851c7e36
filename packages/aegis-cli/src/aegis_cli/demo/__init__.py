"""The demo: three nodes and a client, one process each, that form a mesh."""
