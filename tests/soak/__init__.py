"""Endurance: hours of restarts under a steady load, on a machine with a real systemd. Run by script/soak."""
