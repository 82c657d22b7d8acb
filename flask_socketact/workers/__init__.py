"""Worker classes for gunicorn that drain without losing a request."""
