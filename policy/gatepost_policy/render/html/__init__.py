"""The report as a page: one file, no network, light and dark, for a screen or a phone."""
