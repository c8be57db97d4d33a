"""The door of the server: which requests reach a page, and what is said when it opens.

No page imports it; only ``app.py`` does.
"""
