"""Comparing policies: which is better, and how much do we know about it? See docs/comparison.md."""
