"""A node's part in a mesh whose registry is not the feed."""
