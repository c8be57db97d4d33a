"""Runs the real model code on fake tensors and records the tape, in its own process.

``estimator.tape.tracer_process`` starts it; nothing imports it. It is the only part of estimator that imports torch.
"""
