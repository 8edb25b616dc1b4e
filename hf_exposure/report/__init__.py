"""Presenters of the records: pages, plots, tables and files."""
