"""Text: pretraining batches, labelled tasks, completions."""
