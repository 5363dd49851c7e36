"""The forms in which other programs read an identity or the trust bundle."""
