"""The commands, one module each; whatever takes long to import is imported inside them."""
