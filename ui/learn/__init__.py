"""The Learn page: lessons, and the number formats and quantization they compute with.

No other page imports it; it imports ``ui.parts`` alone.
"""
