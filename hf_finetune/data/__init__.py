"""Files -> checked rows -> splits -> tokens."""
