"""The Runs page: the history, one live run, chat, and what to do after a run.

Plan and Accuracy may import it; it imports no page but ``ui.parts``.
"""
