"""A shop of three services and a gateway, which call each other over a mesh."""
