"""The log limiter, the fork guard and the ticks of a process, which all rooms use."""
