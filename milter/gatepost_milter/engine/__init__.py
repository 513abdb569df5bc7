"""libmilter: the listening socket, the workers, the callbacks, and the parent of them all."""
