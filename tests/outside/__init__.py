"""A user's additions: modules on the Python path, and a folder of configurations on Hydra's search path."""
