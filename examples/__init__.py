"""Runnable examples. This is a package so that the examples in one folder can share code."""
