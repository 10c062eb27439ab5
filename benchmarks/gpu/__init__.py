"""What training and acting do on a GPU, by one command on a bare machine."""
