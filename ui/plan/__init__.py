"""The Plan page: inputs, recommendation, memory, data, export, start.

Compare asks through its forms; it may import ``ui.runs``, to start one, and ``ui.parts``.
"""
