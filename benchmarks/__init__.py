"""Ratios measured side by side in one run; each module is run as `python -m benchmarks.<name>`."""
