"""The Plan page: inputs, recommendation, memory, data, export, start.

Compare reuses its forms. It may import ``ui.runs``, to start a run, and ``ui.parts``.
"""
