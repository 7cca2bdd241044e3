"""A tokenizer without some of its pieces reads the others as before."""

from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from subwords import SPECIALS, TEXTS, as_tokenizer, document_of, trained

from qbert_opt.models.pieces import essential_pieces, new_ids, vocabulary, with_parts, without_others

ALGORITHMS = ("WordPiece", "BPE", "Unigram")


@cache
def known(algorithm):
    """Tokenizer, its document, its essential pieces and the others, in order."""
    tokenizer = trained(algorithm)
    document = document_of(tokenizer)
    essential = essential_pieces(document)
    return tokenizer, document, essential, sorted(set(vocabulary(document)) - essential)


def pieces(tokenizer, text):
    """How a text is split; an unknown character is the piece of unknown ones."""
    return [tokenizer.id_to_token(index) for index in tokenizer.encode(text, add_special_tokens=False).ids]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@settings(max_examples=30)
@given(data=st.data())
def test_texts_of_kept_pieces_are_read_as_before_and_nothing_becomes_unknown(algorithm, data):
    """Whatever is left out; the words are made of the alphabet, of training words and of characters never seen."""
    tokenizer, document, essential, others = known(algorithm)
    kept = with_parts(document, essential | set(data.draw(st.lists(st.sampled_from(others), unique=True))))
    words = st.one_of(
        st.sampled_from(" ".join(TEXTS).split()), st.text("aeghiknoprst", min_size=1), st.text("aтß", min_size=1)
    )
    text = " ".join(data.draw(st.lists(words, min_size=1, max_size=6)))
    smaller = as_tokenizer(without_others(document, new_ids(vocabulary(document), kept)))
    before, after = pieces(tokenizer, text), pieces(smaller, text)
    if set(before) <= kept:
        assert after == before
    assert before.count("[UNK]") == after.count("[UNK]")
    assert set(after) <= kept


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_piece_keeps_its_name_and_gets_its_rank(algorithm):
    """The vocabulary that the library reads is the one meant, and templates add the same tokens."""
    tokenizer, document, essential, others = known(algorithm)
    kept = with_parts(document, essential | set(others[::3]))
    smaller = as_tokenizer(without_others(document, new_ids(vocabulary(document), kept)))
    numbers = new_ids(tokenizer.get_vocab(), kept)
    assert smaller.get_vocab() == {piece: numbers[tokenizer.token_to_id(piece)] for piece in kept}
    assert sorted(smaller.get_vocab().values()) == list(range(len(kept)))
    read = smaller.encode("the song")
    assert [smaller.id_to_token(index) for index in (read.ids[0], read.ids[-1])] == ["[CLS]", "[SEP]"]
    assert set(SPECIALS) <= kept < set(vocabulary(document))


def test_ids_of_templates_and_padding_move_along():
    """By hand: the rows 0, 4, 6 and 7 stay; the template's tokens are 4 and 6, the padding is 7."""
    document = {
        "added_tokens": [{"id": 4, "content": "<s>"}, {"id": 6, "content": "</s>"}, {"id": 7, "content": "<pad>"}],
        "padding": {"pad_id": 7},
        "post_processor": {
            "processors": [
                {"type": "TemplateProcessing", "special_tokens": {"<s>": {"ids": [4]}, "</s>": {"ids": [6]}}},
                {"type": "BertProcessing", "sep": ["</s>", 6], "cls": ["<s>", 4]},
            ]
        },
        "model": {
            "type": "WordPiece",
            "vocab": {"a": 0, "ab": 1, "##b": 2, "b": 3, "<s>": 4, "##a": 5, "</s>": 6, "<pad>": 7},
        },
    }
    result = without_others(document, new_ids(vocabulary(document), {"a", "<s>", "</s>", "<pad>"}))
    assert [token["id"] for token in result["added_tokens"]] == [1, 2, 3]
    assert result["padding"]["pad_id"] == 3
    template, ends = result["post_processor"]["processors"]
    assert template["special_tokens"] == {"<s>": {"ids": [1]}, "</s>": {"ids": [2]}}
    assert (ends["sep"], ends["cls"]) == (["</s>", 2], ["<s>", 1])
    assert result["model"]["vocab"] == {"a": 0, "<s>": 1, "</s>": 2, "<pad>": 3}
    assert document["padding"]["pad_id"] == 7  # the original is left as it is


def test_merges_bring_their_parts():
    """By hand: `hugs` is hug + s, hug is hu + g, hu is h + u; `un` is left out with its merge, and n stays."""
    merges = [["h", "u"], ["u", "n"], ["hu", "g"], ["hug", "s"]]
    entries = ["h", "u", "g", "n", "s", "hu", "un", "hug", "hugs"]
    vocab = {piece: index for index, piece in enumerate(entries)}
    document = {"added_tokens": [], "model": {"type": "BPE", "vocab": vocab, "merges": merges}}
    assert essential_pieces(document) == {"h", "u", "g", "n", "s"}
    kept = with_parts(document, essential_pieces(document) | {"hugs"})
    assert kept == {"h", "u", "g", "n", "s", "hu", "hug", "hugs"}
    assert without_others(document, new_ids(vocabulary(document), kept))["model"]["merges"] == [
        ["h", "u"],
        ["hu", "g"],
        ["hug", "s"],
    ]


def test_the_price_of_an_unknown_character_stays():
    """By hand: the piece of the lowest log-probability sets it, so it stays although no text uses it."""
    entries = [["<unk>", 0.0], ["a", -1.0], ["b", -2.0], ["ab", -1.5], ["ba", -9.0]]
    document = {"added_tokens": [], "model": {"type": "Unigram", "unk_id": 0, "vocab": entries}}
    assert essential_pieces(document) == {"<unk>", "a", "b", "ba"}
