"""What the chapters teach, to import: written by `make helpers` from their cells."""
