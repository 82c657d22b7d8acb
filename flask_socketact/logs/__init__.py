"""Logging: to the journal with fields, or to gunicorn's files and streams."""
