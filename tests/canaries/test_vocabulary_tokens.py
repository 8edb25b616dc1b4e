"""Vocabulary words under small tokenizers of the usual families, which are trained here."""

from __future__ import annotations

import pickle

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from hf_exposure.canaries import VocabularyTokens, Words, space_from_dict
from hf_exposure.canaries.word_spaces import single_token_words
from hf_exposure.errors import InputError

CORPUS = ["the cat sat on the mat and the dog sat on the log while rain fell on the cat"] * 20


def byte_level() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=330, initial_alphabet=alphabet, special_tokens=["<|end|>"])
    tokenizer.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>")


def word_piece() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=120, special_tokens=["[UNK]", "[PAD]"])
    tokenizer.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]")


def sentence_piece() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=120, special_tokens=["<unk>", "</s>"])
    tokenizer.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="</s>")


@pytest.mark.parametrize("make", [byte_level, word_piece, sentence_piece])
def test_words_are_one_token_each_in_a_text(make: object) -> None:
    tokenizer = make()  # type: ignore[operator]
    words = single_token_words(tokenizer)
    assert {"the", "cat", "sat", "on"} <= set(words)
    assert len(set(words)) == len(words)
    assert not any(special in words for special in tokenizer.all_special_tokens)
    assert all(word.isprintable() and word.strip() == word != "" for word in words)
    letters = [word for word in words if word.isalpha()]
    text = " ".join(["the", *letters])
    assert len(tokenizer(text, add_special_tokens=False)["input_ids"]) == 1 + len(letters)
    assert not any(word.startswith(("##", "\u2581", "\u0120")) for word in words)


def test_bytes_give_single_characters() -> None:
    space = VocabularyTokens(ByT5Tokenizer(), 3)
    assert space.words == tuple(chr(code) for code in range(33, 127))
    assert space.size == 94 * 94 * 94
    assert space.fixed_length == 5


def test_it_is_saved_as_its_words() -> None:
    space = VocabularyTokens(byte_level(), 2)
    for copy in (space_from_dict(space.to_dict()), pickle.loads(pickle.dumps(space))):
        assert copy == space and space == copy and hash(copy) == hash(space)
        assert type(copy) is Words


def test_another_separator_is_a_token_of_its_own() -> None:
    words = single_token_words(word_piece(), separator="-")
    assert "the" in words and not any("-" in word for word in words)


def test_no_word_is_an_error() -> None:
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]")
    with pytest.raises(InputError, match=r"tokenizer: must have an entry that is one token after ' ', got 'Tok"):
        VocabularyTokens(wrapped, 2)
