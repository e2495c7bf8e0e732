"""One trained model: swept over sizes, used, profiled, exported, probed."""
