"""Generators, benchmarks and soak tests; nothing of it is installed."""
