"""Several trainings: comparisons, fine-tuning with a control, and the pool they run in."""
