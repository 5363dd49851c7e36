"""A view of a mesh, and the answers that commands make of it. Pure."""
