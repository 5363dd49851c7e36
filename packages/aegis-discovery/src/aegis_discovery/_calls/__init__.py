"""Calls to services: endpoints, selection, balancing, retries and ejection."""
