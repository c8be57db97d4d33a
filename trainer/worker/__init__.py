"""The process of a run: loads the training stack, trains, keeps checkpoints, writes to the store.

The launcher starts it by name; no page or command line ever imports it.
"""
