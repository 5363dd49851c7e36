"""Workers: their supervisor, and what runs in the process of each of them."""
