"""Exporting a policy as one ONNX file, or as a repository on the Hugging Face Hub."""
