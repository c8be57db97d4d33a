"""The run store and what is known of runs: states, records, launching, export, diagnosis.

Doors, pages and workers call it; it never imports torch, streamlit or the rooms that load a model.
"""
