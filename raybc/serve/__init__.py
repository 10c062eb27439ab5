"""Serving a policy to other programs over HTTP and WebSockets."""
