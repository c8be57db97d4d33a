"""Recommended hyperparameters, each with value, reason, source and confidence."""
