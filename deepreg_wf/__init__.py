"""Geodesic registration of T1-weighted brains to a template."""

__version__ = '0.1.0'
