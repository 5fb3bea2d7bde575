"""RoBERTa (Liu et al. 2019) in transformers: BERT's blocks, byte-level BPE, the head reads `<s>`."""

from attcat.model import TextAdapter


class RobertaAdapter(TextAdapter):
    family = "RoBERTa"
    block_paths = ("roberta.encoder.layer",)
    positions_lost = 2  # positions are counted from padding_idx + 1 = 2

    @property
    def causal(self) -> bool:  # type: ignore[override]
        """A decoder sees only what was before."""
        return bool(self.model.config.is_decoder)  # type: ignore[union-attr]
