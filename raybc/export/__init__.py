"""Export: a policy as one ONNX file, or as a repository of the Hugging Face Hub."""
