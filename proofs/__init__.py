"""Proofs that need more than the test suite has: production tokenizers, hours, or a network."""
