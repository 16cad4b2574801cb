"""The tool over the chapters: parameters, sources, checks, run folders, checkpoints, the command."""
