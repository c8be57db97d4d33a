"""The process of a run: loads the training stack, trains, keeps checkpoints, writes into the store.

The launcher starts it by name; no page and no door ever imports it.
"""
