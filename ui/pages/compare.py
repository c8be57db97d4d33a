"""Compare: methods, cards, lengths and batches beside each other."""
