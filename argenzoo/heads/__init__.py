"""Heads: z -> a distribution over tokens."""
