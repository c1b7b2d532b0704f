"""Affine registration of a brain with the template: initialisation, refinement and checks.

Import from the modules: training imports `localisation_net` where SciPy may not be installed.
"""
