"""The command line: parsers of arguments, and the handling of errors."""
