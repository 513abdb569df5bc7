"""The milter service: its socket, its parent and workers, and its engines (libmilter, native)."""
