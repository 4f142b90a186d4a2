"""The queue, the worker process, and what users do to runs. Importing this package does not import torch."""
