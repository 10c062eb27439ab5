"""Export of policies as ONNX files and as repositories on the Hugging Face Hub."""
