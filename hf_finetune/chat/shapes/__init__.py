"""Conversations of one shape are put together, and not rendered.

assembly    the pieces that a template writes around the texts of a shape, found once
opaque      templates that pass texts on unread, by their syntax
nearby      whether they go by what is near to a message alone
analysis    what is known of their variables
kinds       what their expressions may tell of a text
"""
