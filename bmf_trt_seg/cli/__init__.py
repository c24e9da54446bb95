"""The command line: arguments, progress, exit codes; one file a verb."""
