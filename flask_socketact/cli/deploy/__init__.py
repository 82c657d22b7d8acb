"""``flask-socketact deploy``: switch to a release, restart, watch its health, and roll back if it is bad."""
