"""Headless commands for long jobs: one file a command, see `python -m gdrop_viz --help`."""
