"""Tables -> rows, one at a time: CSV and its kin, Parquet and Arrow, one JSON array."""
