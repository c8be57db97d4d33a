"""The pages.

The only importer of streamlit; never imports torch, sqlite3, subprocess or a worker.

One folder for each page, and ``parts`` for what they share: compare and accuracy may import plan and runs, plan may
import runs.
"""
