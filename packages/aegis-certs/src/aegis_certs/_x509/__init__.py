"""Reading and checking X.509: names, keys, validity, identity, trust, revocation."""
