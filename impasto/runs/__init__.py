"""Runs of the methods with progress, previews, checkpoints, receipts, resuming and Ctrl-C."""
