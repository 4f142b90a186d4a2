"""Chats: one prompt to several models, kept in files, answered in the background. Torch-free."""
