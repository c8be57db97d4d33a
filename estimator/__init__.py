"""GPU memory of fine-tuning, in bytes: a tape of one training step, replayed for any plan and card."""
