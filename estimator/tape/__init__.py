"""Tapes: what one training step allocates and frees, by batch, length, rank and layers; and where tapes are kept.

The replay, pricing and tracer import it; it imports specs alone and never torch.
"""
