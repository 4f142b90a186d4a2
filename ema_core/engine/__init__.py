"""The engine: one process that answers for base and adapters over OpenAI's protocol. Importing this package does not import torch."""
