"""Which node watches which, and which nodes are alive. Pure: no I/O, the time is an argument."""
