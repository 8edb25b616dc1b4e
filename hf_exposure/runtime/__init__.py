"""Measuring a live model: processes, leaving its state as found, batches that fit into memory, and reading logits."""
