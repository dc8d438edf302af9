"""Floor 0: the nouns, the eight protocols, the errors and the index. Torch and the standard library only
(and jaxtyping, for the shapes in signatures: docs/decisions/0002)."""
