from .locate import get_custom_template, get_template
from .registration_grid import registration_grid
from .spaces import SpaceSpec
from .template import Template

__all__ = [
    'SpaceSpec',
    'Template',
    'get_custom_template',
    'get_template',
    'registration_grid',
]
