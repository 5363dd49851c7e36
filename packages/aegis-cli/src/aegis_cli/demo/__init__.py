"""The demo: three node processes and a client that become one mesh."""
