"""`aegis ui`: a page on loopback that shows a mesh, and the small server behind it."""
