"""What the process may take that tries patterns of others."""

MEMORY = 2 * 2**30
PROCESSOR_SECONDS = 20
"""For all patterns of a tokenizer."""
CLOCK_SECONDS = 3 * PROCESSOR_SECONDS
"""The same by the clock, of a machine that does other work, and where the system limits no processor time."""
