"""Tokenizers: images <-> tokens."""
