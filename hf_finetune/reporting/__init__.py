"""The run folder: what a run records, and the report, model card and diagnosis made of it."""
