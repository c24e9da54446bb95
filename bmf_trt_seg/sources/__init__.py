"""BMF source modules: where frames come from when it is not BMF's own decoder."""
