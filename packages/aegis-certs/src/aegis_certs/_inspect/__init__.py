"""Reading a certificate directory for a person: list, show, verify, doctor, export."""
