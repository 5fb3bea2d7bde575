"""GPT-2 (Radford et al. 2019) with a classification head in transformers: causal, the head reads the last real token."""

from torch import Tensor

from attcat.model import Encoding, TextAdapter, last_of


class Gpt2Adapter(TextAdapter):
    family = "GPT-2"
    block_paths = ("transformer.h",)
    causal = True
    ignored_arguments = ("token_type_ids",)  # they would be looked up among the word embeddings

    def read(self, encoding: Encoding) -> Tensor:
        """The rightmost token that is not the padding token, as the model determines it (the last, if there is none)."""
        return last_of(encoding.arguments["input_ids"] != (-1 if self.pad_id is None else self.pad_id))

    @property
    def can_batch(self) -> bool:
        """Without a padding token, the model accepts one text at a time."""
        return self.pad_id is not None and getattr(self.processor, "pad_token_id", None) is not None
