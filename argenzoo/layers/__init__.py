"""What the generators share."""
