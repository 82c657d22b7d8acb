"""Restarts under load: what clients of all kinds see of them. Runs beside a service, never in it."""
