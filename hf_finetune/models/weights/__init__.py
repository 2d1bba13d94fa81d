"""The weights of a model in memory.

parameters   counts by component
sharding     models of which each process holds a part
"""
