"""Benchmarks of the runtime, beside its peers."""
