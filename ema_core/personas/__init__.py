"""Persona vectors: directions in the residual stream along which a trait shows. Importing this package does not import torch."""

from ema_core.personas.texts import MONITORED, TRAITS_FOLDER, Answered, PromptPair, TraitTexts, load_texts, projected_trait, traits
from ema_core.personas.vector import Card, PersonaVector, Separation, cards, default_layer, find, load, read_card, vector_id

__all__ = [
    "MONITORED",
    "TRAITS_FOLDER",
    "Answered",
    "Card",
    "PersonaVector",
    "PromptPair",
    "Separation",
    "TraitTexts",
    "cards",
    "default_layer",
    "find",
    "load",
    "load_texts",
    "projected_trait",
    "read_card",
    "traits",
    "vector_id",
]
