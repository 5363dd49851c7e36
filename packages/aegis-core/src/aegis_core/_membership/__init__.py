"""Who watches whom, and who is alive. Pure: no I/O, time is an argument."""
