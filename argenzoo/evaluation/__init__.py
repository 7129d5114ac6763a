"""Measuring: tokenizers by what they reconstruct."""
