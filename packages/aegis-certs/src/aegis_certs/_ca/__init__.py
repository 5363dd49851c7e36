"""A CA: create, issue, renew, revoke and rotate, with its inventory and audit log."""
