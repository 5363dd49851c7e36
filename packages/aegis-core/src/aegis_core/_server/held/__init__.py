"""What one caller may let a node hold: requests, messages and answers."""
