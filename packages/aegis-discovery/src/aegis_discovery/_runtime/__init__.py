"""What every part needs at run time: the log limiter and the fork guard."""
