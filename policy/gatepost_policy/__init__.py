"""What gatepost decides and remembers. Nothing in here knows what a milter is."""
