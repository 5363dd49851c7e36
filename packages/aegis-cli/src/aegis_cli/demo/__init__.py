"""The demo: three nodes and a client, each a process of its own, that become one mesh."""
