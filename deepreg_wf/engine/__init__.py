"""Execution of Nipype workflows: plugins, resources, progress, logs and failures."""
