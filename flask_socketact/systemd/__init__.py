"""What systemd and we say to each other. Nothing here knows gunicorn or Flask."""
