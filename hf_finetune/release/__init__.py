"""A run folder -> what others use: merged, exported, published."""
