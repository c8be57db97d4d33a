"""Runs the real model code on fake tensors and records the tape, in a process of its own.

``estimator.tape.tracer_process`` starts it; nothing imports it, and it alone in estimator imports torch.
"""
