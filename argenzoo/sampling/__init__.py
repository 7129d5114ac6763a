"""Sampling to files."""
