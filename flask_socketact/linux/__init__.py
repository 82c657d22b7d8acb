"""Interfaces of the Linux kernel: descriptors, socket queues, timers."""
