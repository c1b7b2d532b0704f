"""Nipype interfaces: thin shells over the library.

Names are imported when they are first used; the stub beside this file lists them. Nipype is
untyped, so that the inputs and the runtime of an interface are `Any`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
