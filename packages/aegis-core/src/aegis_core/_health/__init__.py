"""Health checks and the task that runs them."""
