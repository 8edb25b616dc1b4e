"""What people look at: pages, plots, tables and files of the records."""
