"""Acting with a trained policy: in rollouts, in a program, behind a server."""
