"""Sound and pictures out of files and into them, by timestamps."""
