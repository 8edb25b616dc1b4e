"""Long checks of the package against brute force, with `make` targets of their own: families of models, tokenizers."""
