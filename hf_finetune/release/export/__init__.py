"""The run folder -> what other runtimes load.

llama       a ScratchGPT -> the architecture of transformers that computes the same
"""
