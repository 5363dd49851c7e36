"""The certificate directory: names, locks, atomic and durable writes."""
