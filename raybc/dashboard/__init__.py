"""A web page on this machine that shows a sweep while it runs and afterwards; it only reads the run folder."""
