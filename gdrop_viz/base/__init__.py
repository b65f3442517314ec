"""What every room uses: checks, the model's state, files, saved results, parallel jobs, intervals, progress."""
