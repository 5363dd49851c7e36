"""What a CA does for machines that enrol: tokens, first certificates, and their successors."""
