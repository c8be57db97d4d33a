"""The Learn page: its lessons, and the number formats and quantization that they compute.

No other page imports it; it imports only ``ui.parts``.
"""
