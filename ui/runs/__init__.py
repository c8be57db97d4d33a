"""The Runs page: history, one run live, conversations, what to do after.

Plan and Accuracy may import it; it imports no page but ``ui.parts``.
"""
