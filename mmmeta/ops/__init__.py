"""Operators and guards for the fast paths, recomputation and memory layout."""
