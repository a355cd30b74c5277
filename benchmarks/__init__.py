"""Benchmarks, which print measured figures and ratios. They neither pass nor fail."""
