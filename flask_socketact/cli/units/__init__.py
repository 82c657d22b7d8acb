"""``flask-socketact units``."""
