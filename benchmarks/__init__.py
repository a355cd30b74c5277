"""Benchmarks: figures and ratios measured in one run. They neither pass nor fail."""
