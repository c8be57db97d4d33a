"""The forms data sets come in: which columns play which role, and what a row of each form says.

Only ``trainer.data`` and what learns from its examples call it; it opens no files and makes no tokens.
"""
