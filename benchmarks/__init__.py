"""Benchmarks that measure ratios side by side in one run; each module is run as `python -m benchmarks.<name>`."""
