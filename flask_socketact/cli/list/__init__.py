"""``flask-socketact list``."""
