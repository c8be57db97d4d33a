"""Predictions beside measurements, and measuring new ones.

The command line and the accuracy page call it; it never imports torch: what it measures runs in a process of the
trainer's.
"""
