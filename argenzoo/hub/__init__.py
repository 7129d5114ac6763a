"""Published weights: the official checkpoints' layouts, mapped to ours in one place."""
