"""The brain in a T1-weighted image: input checks, bias correction, brain extraction."""
