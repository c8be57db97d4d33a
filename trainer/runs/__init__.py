"""The run store and what is known about runs: states, records, launching, export, diagnosis.

Command lines, pages and workers call it; it never imports torch, streamlit or what loads a model.
"""
