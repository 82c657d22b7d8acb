"""``flask-socketact rehearse``: restart a service under load, and report what clients see."""
