"""The sweep over every text model of the installed `transformers`: `python -m tests.architectures`.

`shrunken` builds each type small, `trials` holds what we compute against brute force, `table` writes what came of it.
"""
