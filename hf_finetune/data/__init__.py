"""JSONL -> checked rows -> splits -> tokens."""
