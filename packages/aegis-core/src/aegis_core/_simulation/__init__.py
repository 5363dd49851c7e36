"""A mesh in virtual time: real cores, no sockets, no waiting."""
