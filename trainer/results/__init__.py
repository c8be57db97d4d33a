"""What follows a run: answers, conversations, merged and combined adapters, the Hub.

Command lines and pages import ``chat``, ``tasks`` and ``hub``, which load no model. The other modules belong to the
worker, or are processes that those three start.
"""
