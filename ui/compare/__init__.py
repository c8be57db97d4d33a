"""The Compare page: models, methods and devices against each other.

No other page imports it; it may import ``ui.plan`` and ``ui.parts``.
"""
