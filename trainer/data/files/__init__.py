"""The files that people train on: json, csv, parquet and text read row by row, within bounds, and sets of the Hub.

Called by ``trainer.data``. Knows nothing of layouts, templates and runs.
"""
