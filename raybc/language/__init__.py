"""Instructions as vectors: encoders of texts, and the table of vectors that a policy carries."""
