"""Charts as SVG that templates place: no script, no picture file.

svg.py     the geometry of a chart: curves, bars, downsampled points, values to point at
scales.py  from values to positions, with round ticks
"""
