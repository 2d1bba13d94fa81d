"""Model and rows -> numbers."""
