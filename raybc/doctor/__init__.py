"""What Ray does not check: a cluster's file, its machines, what it reserves and who may talk to it."""
