"""The Accuracy page: predictions beside measurements.

No other page imports it; it may import ``ui.runs`` and ``ui.parts``.
"""
