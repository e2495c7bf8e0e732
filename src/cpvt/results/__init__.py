"""What is stored: rows, probe results, the layout of run folders, checkpoints and their provenance."""
