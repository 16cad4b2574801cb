"""The small module that the chapters draw on; see the table in README.md for who teaches what."""
