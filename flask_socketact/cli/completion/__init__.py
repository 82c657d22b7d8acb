"""``flask-socketact completion``."""
