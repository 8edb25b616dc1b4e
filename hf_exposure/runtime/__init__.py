"""What measuring a live model needs: processes, its state left as found, batches that fit, logits that are read."""
