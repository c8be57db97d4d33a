"""Tapes: what one training step allocates and frees, by batch, length, rank and layers; and where they are stored.

The replay, pricing and tracer import it; it imports only specs and never torch.
"""
