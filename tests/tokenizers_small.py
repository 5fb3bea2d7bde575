"""Small tokenizers of the real kinds, trained here on a few sentences."""

from __future__ import annotations

from functools import cache

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

CORPUS = [
    "a gripping film with beautiful acting and a gripping end",
    "the unwatchable film was boring and far too long",
]


@cache
def wordpiece() -> PreTrainedTokenizerFast:
    """BERT's kind: lower case, word pieces, [CLS] text [SEP] text [SEP]."""
    pieces = [
        "grip",
        "##ping",
        "film",
        "the",
        "a",
        "was",
        "un",
        "##watch",
        "##able",
        "bor",
        "##ing",
        "not",
        ",",
        ".",
        "!",
        "café",
    ]
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = Tokenizer(models.WordPiece({p: i for i, p in enumerate(specials + pieces)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True, strip_accents=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", [("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=16,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


@cache
def byte_bpe(specials: bool = True, unused: int = 0) -> PreTrainedTokenizerFast:
    """GPT-2's and RoBERTa's kind: bytes, so that an emoji is several tokens; `</s>` is number 2 + unused."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        special_tokens=["<s>", "<pad>", *(f"<{i}>" for i in range(unused)), "</s>"],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    if specials:
        tokenizer.post_processor = processors.TemplateProcessing(
            "<s> $A </s>", "<s> $A </s> $B </s>", [("<s>", 0), ("</s>", 2 + unused)]
        )
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"} if specials else {"pad_token": "<pad>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=40, **names)
