"""The pages.

The only importer of streamlit; never imports torch, sqlite3, subprocess or a worker.

Rooms, one for each page, and ``parts`` that they share: compare and accuracy may import plan and runs, plan may
import runs.
"""
