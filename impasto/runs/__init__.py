"""A run with what a person expects around it: progress, previews, checkpoints, receipts, resuming, Ctrl-C."""
