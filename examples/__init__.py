"""Runnable examples. A package, so that those of one folder can share code."""
