"""The report as one HTML file that loads nothing: light and dark, for a screen or a phone."""
