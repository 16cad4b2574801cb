"""For maintainers: what is written into the chapters, and what is measured of them."""
