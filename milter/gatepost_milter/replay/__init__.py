"""Send saved mail through a milter and show what it did with it."""
