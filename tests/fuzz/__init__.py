"""Hostile input: documents, videos, pictures and networks that were damaged or made to harm."""
