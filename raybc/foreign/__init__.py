"""Policies of others: `module:`, `onnx:`, `openpi:`, `vla-eval:`, measured by the same engine as raybc's own."""
