"""A page on this machine that shows a sweep while it runs and afterwards; it reads the run folder and no more."""
