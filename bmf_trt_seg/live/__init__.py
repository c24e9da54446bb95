"""Many live feeds in one process: what a feeds file says, the graph of each, and who runs and restarts them."""
