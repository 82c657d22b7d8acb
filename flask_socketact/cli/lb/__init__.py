"""``flask-socketact lb``."""
