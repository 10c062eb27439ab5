"""A cluster of several machines, made on one: `make test-cluster`."""
