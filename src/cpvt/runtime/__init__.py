"""What any program needs: files, processes, progress bars, memory."""
