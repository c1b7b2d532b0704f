"""The command line: the one place that knows argparse, logging and exit statuses."""
