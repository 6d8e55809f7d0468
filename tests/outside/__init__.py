"""What a user adds from outside: modules on the Python path, and a folder of configurations on Hydra's search path."""
