"""Sound -> features, 50 rows a second."""
