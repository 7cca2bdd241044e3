"""Embeddings against a reference's: cosine, recall and rank correlation, by hand and by a second computation."""

import json
import math

import numpy as np
import pytest
import torch
from families import save
from scipy.stats import spearmanr

from qbert_opt.data.texts import LabeledTexts
from qbert_opt.evaluation.evaluate import evaluate, evaluation_batches, measure, outputs
from qbert_opt.evaluation.intervals import spearman_interval
from qbert_opt.evaluation.retrieval import MAX_QUERIES, cosines, recalls
from qbert_opt.models.loading import load_model
from qbert_opt.models.outputs import Outputs


def recall_by_sorting(reference, found, k):
    """Recall@k of each row in plain Python: sort all other rows by cosine, and count what both lists have."""

    def nearest(rows, query):
        def cosine(a, b):
            dot = math.fsum(x * y for x, y in zip(a, b, strict=True))
            return dot / math.sqrt(math.fsum(x * x for x in a) * math.fsum(y * y for y in b))

        others = [index for index in range(len(rows)) if index != query]
        return set(sorted(others, key=lambda index: -cosine(rows[query], rows[index]))[:k])

    a, b = reference.tolist(), found.tolist()
    return [len(nearest(a, query) & nearest(b, query)) / k for query in range(len(a))]


def test_by_hand():
    """Four directions; the second model turns the third text to the first."""
    before = torch.tensor([[1.0, 0.0], [2.0, 0.2], [0.0, 1.0], [0.3, 3.0]])
    now = torch.tensor([[1.0, 0.0], [2.0, 0.2], [5.0, 0.1], [0.3, 3.0]])
    found = recalls(before, now, (1, 3, 4))
    # nearest before: 0-1, 1-0, 2-3, 3-2; now: 0-2 (cosine 0.9998 > 0.995), 1-2, 2-0, 3-1
    assert found[1].tolist() == [0, 0, 0, 0]
    assert found[3].tolist() == [1, 1, 1, 1] and 4 not in found
    assert cosines(before, now).tolist() == pytest.approx([1, 1, 0.1 / math.sqrt(25.01), 1])
    assert recalls(before, 7 * before, (1, 2))[2].tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("k", [1, 5, 10])
def test_as_sorting_says(seed, k):
    """Random vectors, which have no ties, more and less disturbed."""
    generator = torch.Generator().manual_seed(seed)
    before = torch.randn(30, 6, generator=generator)
    now = before + 0.3 * seed * torch.randn(30, 6, generator=generator)
    assert recalls(before, now)[k].tolist() == pytest.approx(recall_by_sorting(before, now, k))


def test_which_of_two_equal_texts_is_found_does_not_matter():
    """A text that occurs three times: any of the copies is right, whatever the last digits say."""
    before = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    now = before + torch.tensor([[0.0, 0.0], [0.0, 1e-4], [0.0, -2e-4], [0.0, 0.0]])
    assert recalls(before, now)[1].tolist() == [1, 1, 1, 1]


def test_a_large_collection_is_asked_a_part_of_its_texts():
    """2000 queries, each against every text."""
    before = torch.randn(MAX_QUERIES + 40, 3, generator=torch.Generator().manual_seed(0))
    now = before.clone()
    now[-1] = now[5]  # the last text is no query, but now the nearest one of the sixth
    shares = recalls(before, now, (1,))[1]
    assert len(shares) == MAX_QUERIES and shares[5] == 0 and shares.mean() > 0.9


def test_spearman_is_scipys_and_its_interval_covers_it():
    """With ties on both sides; constants have no correlation."""
    generator = np.random.default_rng(0)
    a = generator.integers(0, 6, 80).astype(float)
    b = np.round(a + generator.normal(0, 2, 80))
    found = spearman_interval(a, b)
    assert found.value == pytest.approx(spearmanr(a, b).statistic)
    # a bootstrap's spread is that of the estimate: about (1 - r²) / √n
    spread = (1 - found.value**2) / math.sqrt(80)
    assert found.low < found.value < found.high and 2 * spread < found.high - found.low < 6 * spread
    assert spearman_interval(np.ones(5), np.arange(5.0)) is None


def test_spearman_by_hand():
    """1 - 6 Σd² / (n(n² - 1)) without ties; with ties, the correlation of the mean ranks."""
    scores = np.array([5.0, 0.0, 3.5, 1.0, 4.0])  # as annotators give them: ranks 5, 1, 3, 2, 4
    cosines = np.array([0.91, 0.12, 0.60, 0.75, 0.70])  # ranks 5, 1, 2, 4, 3: d = 0, 0, 1, -2, 1
    assert spearman_interval(cosines, scores).value == pytest.approx(1 - 6 * 6 / (5 * 24))
    assert spearman_interval(-cosines, scores).value == pytest.approx(6 * 6 / (5 * 24) - 1)
    # ranks 1.5, 1.5, 3 and 1, 2, 3, less their mean 2: product 1.5, squares 1.5 and 2
    assert spearman_interval(np.array([0.2, 0.2, 0.9]), np.arange(3.0)).value == pytest.approx(1.5 / math.sqrt(3))


def test_figures_of_a_reference_and_of_itself():
    """Against itself everything is found; the interval of a share without exceptions is exact, not of no width."""
    values = torch.randn(20, 8, generator=torch.Generator().manual_seed(0))
    rows = Outputs("embeddings", values, torch.arange(20), 20)
    same = measure(rows, None, values)
    assert same.cosine.value == pytest.approx(1) and same.recall_at_10.value == 1 > same.recall_at_10.low
    few = measure(rows.first(6), None, values[:6])
    assert few.recall_at_5.value == 1 and few.recall_at_10 is None
    assert measure(rows).cosine is None


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return save(tmp_path_factory.mktemp("encoder") / "model", "bert", "embeddings")


@pytest.fixture(scope="module")
def pairs():
    """Pairs whose label is the number of words that they share."""
    generator = np.random.default_rng(1)
    texts = [tuple(" ".join(f"w{i}" for i in generator.integers(0, 12, 4)) for _ in range(2)) for _ in range(24)]
    shared = [len(set(a.split()) & set(b.split())) for a, b in texts]
    return LabeledTexts("pairs", tuple(texts), tuple(map(str, shared)))


def test_texts_of_a_pair_are_embedded_on_their_own(encoder, pairs):
    """Two rows for each pair; Spearman of their cosines with the labels."""
    loaded = load_model(encoder)
    single = LabeledTexts("texts", tuple((text,) for pair in pairs.texts for text in pair), None)
    rows = outputs(loaded, pairs)
    torch.testing.assert_close(rows, outputs(loaded, single), atol=1e-5, rtol=1e-4)
    assert all(batch.texts is not None for batch in evaluation_batches(loaded, pairs))
    found = evaluate(loaded, pairs, rows)
    a, b = rows[::2].double(), rows[1::2].double()
    similar = [float(x @ y / (x.norm() * y.norm())) for x, y in zip(a, b, strict=True)]
    assert found.spearman.value == pytest.approx(spearmanr(similar, list(map(float, pairs.labels))).statistic)
    assert found.num_samples == 24 and found.recall_at_10.value == 1


def test_the_command_line_and_its_refusals(encoder, pairs, cli, tmp_path):
    """Figures in table and JSON; one line for labels that are no numbers, for pairs without labels, for few texts."""
    good = tmp_path / "pairs.tsv"
    lines = ["a\tb\tscore", *("\t".join((*pair, label)) for pair, label in zip(pairs.texts, pairs.labels, strict=True))]
    good.write_text("\n".join(lines) + "\n")
    columns = ("--text-column", "a", "--text-column", "b", "--label-column", "score")
    document = json.loads(cli("evaluate", encoder, "--data", good, *columns, "--reference", encoder, "--json").out)
    assert document["recall_at_10"]["value"] == document["recall_at_1"]["value"] == 1
    assert -1 <= document["spearman"]["low"] <= document["spearman"]["value"] <= document["spearman"]["high"] <= 1
    table = cli("evaluate", encoder, "--data", good, *columns, "--reference", encoder).out
    assert "recall@10" in table and "Spearman" in table and "cosine" in table
    words = tmp_path / "words.tsv"
    words.write_text("a\tb\tscore\nw1\tw2\thigh\nw3\tw4\tlow\n")
    refused = cli("evaluate", encoder, "--data", words, *columns)
    assert refused.code == 4 and "sample 1 has label 'high'. The label of a pair of texts is its" in refused.complaint
    bare = tmp_path / "bare.tsv"
    bare.write_text("a\tb\nw1\tw2\nw3\tw4\n")
    found = cli("evaluate", encoder, "--data", bare, "--text-column", "a", "--text-column", "b", "--reference", encoder)
    few, without = found.err.splitlines()
    assert found.code == 0 and "4 texts are too few for recall@5, recall@10; give at least 11" in few
    assert "pairs without labels have no Spearman correlation; name their scores with --label-column" in without


@torch.no_grad()
def test_run_prints_vectors_and_similarities(encoder, cli, tmp_path):
    """A quantized encoder's vectors are the pooled states; pairs and --similarity give cosines."""
    from qbert_opt.models.structure import profile_model
    from qbert_opt.planning.recipes import given_allocation
    from qbert_opt.serving.predictor import Predictor
    from qbert_opt.spec.choices import choice
    from qbert_opt.workflows.quantize import quantize_model

    loaded = load_model(encoder)
    plan = given_allocation(
        profile_model(loaded), {m.module: choice("8bit/rows:each/rtn") for m in profile_model(loaded).matrices}
    )
    out = quantize_model(loaded, plan, None, tmp_path / "out").folder
    vectors = Predictor(out).embed(["w1 w2", "w3 w4 w5"])
    data = LabeledTexts("t", (("w1 w2",), ("w3 w4 w5",)), None)
    np.testing.assert_allclose(vectors, outputs(loaded, data), atol=0.1)
    cosine = float(vectors[0] @ vectors[1] / np.linalg.norm(vectors[0]) / np.linalg.norm(vectors[1]))
    texts = ("--text", "w1 w2", "--text", "w3 w4 w5")
    first, second = (line.split("\t") for line in cli("run", out, *texts).out.splitlines())
    assert first[0] == "w1 w2" and len(first) == 33
    np.testing.assert_allclose([float(number) for number in second[1:]], vectors[1], rtol=1e-4, atol=1e-5)
    [vector, _] = json.loads(cli("run", out, *texts, "--json").out)
    np.testing.assert_allclose(vector["vector"], vectors[0], rtol=1e-5)
    assert cli("run", out, *texts, "--similarity").out == f"{cosine:.4f}\tw1 w2\tw3 w4 w5\n"
    (tmp_path / "pairs.tsv").write_text("a\tb\nw1 w2\tw3 w4 w5\nw1 w2\tw1 w2\n")
    printed = cli("run", out, "--data", tmp_path / "pairs.tsv", "--text-column", "a", "--text-column", "b", "--json")
    assert [row["cosine"] for row in json.loads(printed.out)] == pytest.approx([cosine, 1])
    again = cli(
        "run", out, "--data", tmp_path / "pairs.tsv", "--text-column", "a", "--text-column", "b", "--similarity"
    )
    assert again.code == 2 and "--similarity: the texts of a pair are compared anyway" in again.complaint
    assert "needs two texts or more" in cli("run", out, "--text", "w1", "--similarity").complaint
    assert "text 2 is empty" in cli("run", out, "--text", "w1", "--text", " ").complaint
