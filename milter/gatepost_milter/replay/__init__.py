"""Put saved mail through a milter and say what came of it."""
