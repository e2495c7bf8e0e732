"""Several trainings: compare encodings, fine-tune with a control, and the pool they run in."""
