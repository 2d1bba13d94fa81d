"""The weights of a model in memory.

parameters   counts by component
sending      those that the first of several processes reads for all
sharding     models of which each process holds a part
"""
