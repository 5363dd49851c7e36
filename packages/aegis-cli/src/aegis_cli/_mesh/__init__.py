"""The facts that the commands on a mesh collect, and how they show them."""
