"""What is done with one trained model: sweep, predict, profile, export, probe."""
