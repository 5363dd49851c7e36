"""What a CA does: create, issue, renew, revoke, rotate, and the records it keeps."""
