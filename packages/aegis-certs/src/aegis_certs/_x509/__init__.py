"""Reading and judging X.509: names, keys, validity, identity, trust, revocation."""
