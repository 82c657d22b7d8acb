"""``flask-socketact doctor``."""
