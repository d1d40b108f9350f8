"""One script per claim; see each docstring for what it shows and how long it takes."""
