"""Real fine-tuning runs: store, launcher and worker."""
