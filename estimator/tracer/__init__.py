"""Runs the real model code on fake tensors and records the tape; the only importer of torch in estimator."""
