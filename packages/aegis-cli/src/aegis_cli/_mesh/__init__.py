"""What the commands on a mesh ask of its nodes, and how they show it."""
