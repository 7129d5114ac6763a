"""Generators: a network and an order, one paradigm a file."""
