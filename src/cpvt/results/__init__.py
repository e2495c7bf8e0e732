"""What was measured and where it is kept: rows, probe results, run folders, checkpoints."""
