"""Losses that train tokenizers: plain terms, and parts with settings and networks of their own."""
