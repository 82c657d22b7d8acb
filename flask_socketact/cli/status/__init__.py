"""``flask-socketact status``."""
