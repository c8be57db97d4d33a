"""Predictions compared with measurements, and new measurements.

The command line and the accuracy page call it. It never imports torch: measured runs are a process of the trainer.
"""
