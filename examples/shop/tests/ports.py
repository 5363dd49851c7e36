"""Ports for processes that need to know theirs before they start."""

import random
import socket


def free_ports(count):
    """Returns the first of `count` ports in a row that nobody uses.

    They are below those that systems assign, so that no other process gets one by chance.
    """
    while True:
        first = random.randrange(20000, 30000)
        try:
            for port in range(first, first + count):
                socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        return first
