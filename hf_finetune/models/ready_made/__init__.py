"""Model folders made of what comes without a hub: a package of PyPI, or a GGUF file."""
