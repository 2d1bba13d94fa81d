"""Trainer that says what it does."""
