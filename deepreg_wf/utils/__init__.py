"""Helpers without knowledge of images: atomic writes, locks, subprocesses, system errors."""
