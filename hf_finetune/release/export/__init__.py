"""A run -> what other programs run."""
