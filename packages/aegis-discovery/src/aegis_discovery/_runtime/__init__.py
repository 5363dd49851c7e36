"""The log limiter and the fork guard, which all rooms use."""
