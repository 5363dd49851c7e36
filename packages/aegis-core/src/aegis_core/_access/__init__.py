"""Who calls, and may it: the caller, its certificate and the policy."""
