"""Long checks of the package against brute force, run by `make` targets of their own and not by the test suite."""
