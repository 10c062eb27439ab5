"""raybc finds, trains and honestly measures the best behaviour-cloning policy for a robot task."""

__version__ = "0.1.0"
