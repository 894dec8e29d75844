"""Review texts → embeddings, and from these the text profiles of users and items."""

from symcere.text.embeddings import Embeddings, embed
from symcere.text.encoder import Joined, TextEncoder, make_encoder
from symcere.text.profiles import profiles

__all__ = ["Embeddings", "Joined", "TextEncoder", "embed", "make_encoder", "profiles"]
