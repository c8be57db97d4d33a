"""The training loop as a plan configures it: TRL's trainers, what watches them, and what they keep.

Only the process of a run calls it; it reads no data and builds no model.
"""
