"""The log limiter, the fork guard, event loops and the ticks of a process, for all rooms."""
