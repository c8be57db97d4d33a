"""What follows a run: answers, conversations, merged and combined adapters, the Hub.

Doors and pages import ``chat``, ``tasks`` and ``hub``, which load no model; the other modules are processes that
those start, or belong to the worker.
"""
