"""The run folder: written, read, summarised, compared."""
