from .atlas import Atlas, build_atlas
from .records import GroupRecords, RegistrationRecord, find_records
from .tables import worst_first, write_table

__all__ = [
    'Atlas',
    'GroupRecords',
    'RegistrationRecord',
    'build_atlas',
    'find_records',
    'worst_first',
    'write_table',
]
