"""Find what is wrong with this installation or its MTA, and which line to change."""
