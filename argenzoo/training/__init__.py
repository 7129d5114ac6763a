"""One loop over players, for generators and tokenizers."""
