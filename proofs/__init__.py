"""Long-running checks of the package against brute force, with separate `make` targets: model families, tokenizers."""
