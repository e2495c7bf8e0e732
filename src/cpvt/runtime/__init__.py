"""Processes, progress, memory and files, independent of models and data."""
