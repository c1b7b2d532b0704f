"""Execution of Nipype workflows: plugins, resources, progress, logs and failures.

What this package uses of Nipype, beyond building and running workflows:

- `multiproc` is a plugin of its own, a subclass of ``PluginBase`` with the method ``run``. Of a
  node it uses the public attributes and the methods ``run`` and ``is_cached``, and it writes crash
  files by ``nipype.pipeline.plugins.tools.report_crash``.
- `worker` wraps ``_run_interface``, the method that each interface implements, to keep the
  exception of which Nipype keeps the text only.
- `slurm` overrides ``_submit_batchtask``, ``_is_pending`` and ``_get_result``, by which Nipype's
  ``SLURMPlugin`` adapts its base class to a scheduler, and reads its ``_pending``.
- `crashes` reads crash files in Nipype's text format.
- `literal_paths` replaces the function ``glob`` of ``nipype.pipeline.engine.nodes`` and ``utils``.

``tests/test_nipype_contract.py`` checks these names against the installed Nipype.
"""
