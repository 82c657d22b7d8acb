"""The master process: gunicorn's arbiter as a service of systemd."""
