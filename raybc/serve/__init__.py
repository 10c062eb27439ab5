"""Serving: a policy that programs elsewhere ask over HTTP or a WebSocket."""
