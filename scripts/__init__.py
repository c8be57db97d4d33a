"""What the Makefile calls: set-up, server start and maintenance."""
