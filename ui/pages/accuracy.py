"""Accuracy: predicted against measured memory."""
