"""What a process holds: its key, chain and trust bundle, and when to renew them."""
