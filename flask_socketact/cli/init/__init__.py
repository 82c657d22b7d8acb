"""``flask-socketact init``."""
