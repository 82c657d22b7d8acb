"""A deployment on this machine: put a release in place, restart, look at it, and put the old one back if it is bad."""
