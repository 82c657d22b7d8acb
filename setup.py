"""For tools that still call setup.py. All metadata is in setup.cfg."""

from setuptools import setup

setup()
